"""Half a posterior: Normals on what reads the inputs, points elsewhere (BLoB, arXiv 2406.11675)."""

from dataclasses import dataclass

from bayes_lora.errors import check_positive
from bayes_lora.guides.family import Family
from bayes_lora.guides.mean_field import NormalsGuide
from bayes_lora.guides.projections import projections
from bayes_lora.model import BayesianModel


@dataclass(frozen=True)
class BLoB(Family):
    """Variance on LoRA's A alone, as Wang et al. 2024 (arXiv 2406.11675, section 3.1) choose it.

    B and the head are points, with a prior. The rest is not BLoB's: A's prior is centred where A
    starts, and theirs at zero; the KL has one weight, and theirs another at every step; the rows
    of a step share a few draws, where their flipout gives each row random signs; a scale is a
    parameter's exponential, theirs its square.

    Args:
        initial_scale: Where A's scales start, in units of the factor's natural size.
    """

    initial_scale: float = 0.12

    def __post_init__(self) -> None:
        check_positive("initial_scale", self.initial_scale)

    def build(self, model: BayesianModel) -> "HalfGuide":
        """Make the guide."""
        return HalfGuide(model, self.initial_scale)


class HalfGuide(NormalsGuide):
    """Normal(loc, scale^2) for every entry of the projections, a Delta at loc elsewhere.

    Args:
        model: The program whose sites the guide samples; see ``projections`` for which are random.
        initial_scale: Where scales start, in units of each factor's natural size.
    """

    def __init__(self, model: BayesianModel, initial_scale: float) -> None:
        super().__init__(model, initial_scale, projections(model))
