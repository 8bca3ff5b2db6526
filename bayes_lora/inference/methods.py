"""How each family of ``GUIDES`` is fitted, and under which priors."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from bayes_lora.adapters import Adapter
from bayes_lora.effects import Flat, LearnedNormal, Normal
from bayes_lora.errors import ConfigError
from bayes_lora.guides import (
    GUIDES,
    IVON,
    MAP,
    MLE,
    NUTS,
    SVGD,
    SWAG,
    BLoB,
    DeepEnsemble,
    DiagonalLaplace,
    Family,
    Laplace,
    LowRank,
    MCDropout,
    MeanField,
    TrainingFree,
)
from bayes_lora.inference.ensemble import fit_ensemble
from bayes_lora.inference.ivon import fit_ivon
from bayes_lora.inference.laplace import fit_laplace
from bayes_lora.inference.model_settings import FLAT, ModelSettings
from bayes_lora.inference.nuts import fit_nuts
from bayes_lora.inference.svgd import fit_svgd
from bayes_lora.inference.svi import fit_svi
from bayes_lora.inference.swag import fit_swag
from bayes_lora.inference.training_free import fit_training_free
from bayes_lora.named import name_of


class Priors(Enum):
    """Which priors a method can work with."""

    NONE = "none"  # flat ones, which have no weight either
    FIXED = "fixed"  # a point's optimum for a prior's scale is zero
    PROPER = "proper"  # with scales that may be learned
    PROPER_FIXED = "proper and fixed"


@dataclass(frozen=True)
class Method:
    """How a family is fitted.

    Args:
        run: Fits a guide in place. Called with the program, the guide, the training rows and the
            settings, and by keyword with ``family``, ``dev`` (rows or None) and ``running``.
        settings: Priors, where a user gives none. docs/defaults.md says why.
        priors: Which it can work with.
    """

    run: Callable[..., None]
    settings: ModelSettings
    priors: Priors

    def check(self, name: str, chosen: ModelSettings, adapter: Adapter | None) -> None:
        """Check that the method can work with priors.

        Args:
            name: The guide's, for messages.
            chosen: The priors.
            adapter: Some adapters have learned prior scales.

        Raises:
            ConfigError: It cannot.
        """
        fixed = self.priors is not Priors.PROPER
        if fixed and adapter and adapter.relevance_factors:
            raise ConfigError(
                f"The guide {name!r} cannot learn the prior scales of {adapter}: their optimum is "
                "zero. Take LoRA, or the guide 'mean-field'."
            )
        if fixed and any(isinstance(prior, LearnedNormal) for prior in chosen.priors):
            raise ConfigError(
                f"The guide {name!r} cannot learn a prior scale: its optimum is a scale of zero. "
                "Give it a Normal prior of fixed scale."
            )
        flat = [isinstance(prior, Flat) for prior in chosen.priors]
        if self.priors in (Priors.PROPER, Priors.PROPER_FIXED) and any(flat):
            raise ConfigError(
                f"The guide {name!r} needs a proper prior; a Flat one is for 'mle' and its like."
            )
        if self.priors is Priors.NONE and not (all(flat) and chosen.kl_weight == 1):
            raise ConfigError(
                f"The guide {name!r} has no prior to weigh: leave priors and their weight out, or "
                "use the guide 'map'."
            )


FIXED = ModelSettings(Normal(0.3), Normal(0.3), Normal(1.0), Normal(0.3))
# What these families were measured with; a weight of 1 was tried for mean-field alone.
TEMPERED = ModelSettings(kl_weight=0.3)
# The mode is to be sharp: what surrounds it is what makes predictions less sure.
SHARP = ModelSettings(kl_weight=0.1)
METHODS: dict[type[Family], Method] = {
    MeanField: Method(fit_svi, ModelSettings(), Priors.PROPER),
    Laplace: Method(fit_laplace, SHARP, Priors.PROPER_FIXED),
    DiagonalLaplace: Method(fit_laplace, SHARP, Priors.PROPER_FIXED),
    MAP: Method(fit_svi, FIXED, Priors.FIXED),
    MLE: Method(fit_svi, FLAT, Priors.NONE),
    LowRank: Method(fit_svi, TEMPERED, Priors.PROPER),
    SWAG: Method(fit_swag, FLAT, Priors.NONE),
    IVON: Method(fit_ivon, TEMPERED, Priors.PROPER_FIXED),
    MCDropout: Method(fit_svi, FLAT, Priors.FIXED),
    BLoB: Method(fit_svi, TEMPERED, Priors.PROPER_FIXED),
    TrainingFree: Method(fit_training_free, FLAT, Priors.FIXED),
    DeepEnsemble: Method(fit_ensemble, FLAT, Priors.FIXED),
    SVGD: Method(fit_svgd, FIXED, Priors.PROPER_FIXED),
    NUTS: Method(fit_nuts, FIXED, Priors.PROPER_FIXED),
}
DEFAULTS = {name: METHODS[family].settings for name, family in GUIDES.items()}


def family_of(guide: str | Family) -> Family:
    """Make the family that a name stands for, with its default settings.

    Raises:
        ConfigError: There is none of that name.
    """
    if isinstance(guide, Family):
        return guide
    if guide not in GUIDES:
        raise ConfigError(f"There is no guide {guide!r}: choose from {', '.join(GUIDES)}.")
    return GUIDES[guide]()


def guide_name(family: Family) -> str:
    """Give a family's name in ``GUIDES``."""
    return name_of(family, GUIDES)
