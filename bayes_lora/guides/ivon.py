"""IVON: a mean-field posterior from an optimizer's own second moments (arXiv 2402.17641)."""

from dataclasses import dataclass

from bayes_lora.errors import UnsupportedError, check_positive
from bayes_lora.guides.family import Family
from bayes_lora.guides.mean_field import MeanField, MeanFieldGuide
from bayes_lora.model import BayesianModel


@dataclass(frozen=True)
class IVON(Family):
    """An independent Normal for every weight, found by natural gradients (Shen et al. 2024).

    Args:
        learning_rate: Of Newton steps: 1 would go to where a quadratic loss is least.
        hess_init: Where the second derivative of a row's loss starts, for each weight in its
            factor's natural size. The posterior starts, and after a short fit still is, about
            ``1 / sqrt(rows / kl_weight * hess_init)`` units wide.
    """

    learning_rate: float = 0.3
    hess_init: float = 0.04

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("hess_init", self.hess_init)

    def build(self, model: BayesianModel) -> MeanFieldGuide:
        """Make the guide.

        Raises:
            UnsupportedError: The program has levels of attributes.
        """
        if model.by_level:
            raise UnsupportedError(
                "IVON has no posterior for the levels of attributes: leave attributes out, or take "
                "the guide 'mean-field'."
            )
        return MeanFieldGuide(model, MeanField.initial_scale)
