"""Noise around a trained point (TFB: Shi et al. 2024, arXiv 2412.05723)."""

from dataclasses import dataclass

from bayes_lora.errors import check_positive
from bayes_lora.guides.family import Family
from bayes_lora.guides.half import HalfGuide
from bayes_lora.model import BayesianModel


@dataclass(frozen=True)
class TrainingFree(Family):
    """As much noise around a point as costs no more than a tolerance; only the point is trained.

    See ``inference.training_free`` for what the noise is. The tolerance is in nats and not, as the
    paper's, a share of the point's loss: that is next to nothing where a point has learned its
    training rows by heart, and noise is wanted most.

    Args:
        tolerance: By how much the noise may raise the mean negative log-likelihood of training
            rows, in nats a row. A posterior's draws are worse by half a nat in all for each
            direction that the data inform: the default is 30 of these in 500 rows. Not tuned.
    """

    tolerance: float = 0.03

    def __post_init__(self) -> None:
        check_positive("tolerance", self.tolerance)

    def build(self, model: BayesianModel) -> HalfGuide:
        """Make the guide, which starts as BLoB's does."""
        return HalfGuide(model, initial_scale=0.12)
