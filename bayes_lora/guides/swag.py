"""SWAG: a Gaussian through the last points of training (Maddox et al. 2019, arXiv 1902.02476)."""

from dataclasses import dataclass

from bayes_lora.errors import ConfigError
from bayes_lora.guides.family import Family
from bayes_lora.guides.low_rank import LowRank, LowRankGuide
from bayes_lora.model import BayesianModel


@dataclass(frozen=True)
class SWAG(Family):
    """A Gaussian with the mean and covariance of iterates, low rank plus diagonal.

    Args:
        rank: How many iterates, K.
    """

    rank: int = 20

    def __post_init__(self) -> None:
        if self.rank < 2:
            raise ConfigError(f"SWAG needs at least 2 iterates for a variance, not {self.rank}.")

    def build(self, model: BayesianModel) -> LowRankGuide:
        """Make the guide; where it starts means nothing, for iterates replace it."""
        return LowRankGuide(model, self.rank, LowRank.initial_scale)
