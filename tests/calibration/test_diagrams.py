import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from calibration import (
    InvalidPredictionsError,
    ece,
    reliability_diagram,
    risk_coverage_diagram,
    validate,
)
from calibration.diagrams import reliability_bins


def texts(svg: str) -> list[str]:
    return [x.text or "" for x in ElementTree.fromstring(svg).iter() if x.tag.endswith("text")]


def test_the_bins_drawn_are_the_bins_measured(rng):
    p = rng.dirichlet(np.ones(3) / 2, size=300)
    p[:16, 0] = np.linspace(0, 1, 16)
    p[:16, 1:] = (1 - p[:16, :1]) / 2
    labels = rng.integers(0, 3, 300)
    data = validate(p, labels)
    bins = reliability_bins(data.confidences, data.correct)
    assert bins.counts.sum() == 300
    averaged = (bins.counts * np.abs(bins.accuracy - bins.confidence)).sum() / 300
    assert averaged == pytest.approx(ece(p, labels), abs=1e-12)


def test_reliability_diagram_is_an_svg_that_names_the_ece():
    svg = reliability_diagram([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3)
    assert svg.startswith("<svg")
    assert "ECE 0.200" in texts(svg)
    assert {"confidence", "accuracy"} <= set(texts(svg))


def test_reliability_diagram_validates():
    with pytest.raises(InvalidPredictionsError, match="row 0"):
        reliability_diagram([[0.9, 0.9]], [0])


def test_risk_coverage_diagram_takes_any_name(rng):
    names = ["svi", "$x$ & <b>", "日本語", "_hidden"]
    data = validate(rng.dirichlet(np.ones(3), size=30), rng.integers(0, 3, 30))
    shown = texts(risk_coverage_diagram(dict.fromkeys(names, data)))
    assert set(names) <= set(shown)


def test_a_name_that_is_not_utf8_is_shown_as_far_as_it_goes():
    name = b"caf\xe9".decode("utf-8", errors="surrogateescape")
    assert "caf?" in texts(risk_coverage_diagram({name: validate([[0.9, 0.1]], [0])}))


def test_one_row_is_enough():
    one = validate([[0.9, 0.1]], [0])
    assert risk_coverage_diagram({"one": one}).startswith("<svg")
    assert reliability_diagram([[1.0, 0.0]], [0]).startswith("<svg")


def test_the_same_data_gives_the_same_picture(rng):
    p, labels = rng.dirichlet(np.ones(3), size=30), rng.integers(0, 3, 30)
    assert reliability_diagram(p, labels) == reliability_diagram(p, labels)
