"""Detection of rows outside, where the answer is known."""

import numpy as np
import pytest
from scipy.stats import norm

from calibration import InvalidPredictionsError, detection


def test_two_normals() -> None:
    """Scores N(0, 1) inside and N(d, 1) outside: AUROC is Phi(d / sqrt 2)."""
    generator = np.random.default_rng(0)
    distance = 1.5
    found = detection(generator.normal(size=100_000), generator.normal(distance, size=100_000))
    assert found.auroc == pytest.approx(norm.cdf(distance / np.sqrt(2)), abs=0.003)
    assert found.fpr95 == pytest.approx(norm.sf(distance - norm.ppf(0.95)), abs=0.01)


def test_a_small_case_by_hand() -> None:
    """Outside 3 and 1, inside 2, 1 and 0: pairs won are 3 + (1 + 1/2) of 6."""
    found = detection([2.0, 1.0, 0.0], [3.0, 1.0])
    assert found.auroc == pytest.approx(4.5 / 6)
    assert found.fpr95 == pytest.approx(2 / 3)  # both are found from score 1 on
    assert found.aupr == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


def test_perfect_and_useless() -> None:
    assert detection([0.0, 0.1], [0.5, 0.6]).auroc == 1
    assert detection([0.3, 0.3], [0.3]).auroc == 0.5


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], [np.nan]), ([[1.0]], [1.0])])
def test_scores_that_cannot_be(inside: list[float], outside: list[float]) -> None:
    with pytest.raises(InvalidPredictionsError):
        detection(inside, outside)
