"""The likelihood of some training rows under draws of the weights: what judges noise."""

import numpy as np

from bayes_lora.model import BayesianModel
from bayes_lora.predict import Draws, predict
from bayes_lora.scorers import LabelledRows
from calibration import nll


def expected_nll(model: BayesianModel, draws: Draws, rows: LabelledRows) -> float:
    """Return the mean over draws of their negative log-likelihood of labels, in nats a row."""
    per_draw = predict(model, draws, rows.rows, keep_draws=True).per_draw
    assert per_draw is not None
    return float(np.mean([nll(probabilities, rows.labels) for probabilities in per_draw]))


def anchors(train: LabelledRows, most: int, seed: int) -> LabelledRows:
    """Choose the training rows that judge, at random."""
    chosen = np.random.default_rng(seed).permutation(len(train))[:most]
    return LabelledRows([train.rows[i] for i in chosen], [train.labels[i] for i in chosen])
