"""The priors of a fit."""

from dataclasses import dataclass, field

from bayes_lora.adapters import Adapter
from bayes_lora.effects import Effect, Flat, LearnedNormal, Normal, Pooled, Prior
from bayes_lora.errors import check_positive

POPULATION = "population"


@dataclass(frozen=True)
class ModelSettings:
    """Priors and their weight. The defaults are justified in docs/defaults.md.

    Args:
        update_prior: Prior of adapter factors that start at zero, such as LoRA's B.
        projection_prior: Prior of those that start at a random projection, such as LoRA's A, and
            is centred there.
        head_prior: Prior of the head.
        level_prior: Prior of the levels of an attribute.
        kl_weight: Weight of the prior against the likelihood. 1 is Bayes' rule, any other value
            is tempering.
    """

    update_prior: Prior = field(default_factory=lambda: Normal(1.0))
    projection_prior: Prior = field(default_factory=lambda: Normal(0.3))
    head_prior: Prior = field(default_factory=lambda: Normal(1.5))
    level_prior: Prior = field(default_factory=Pooled)
    kl_weight: float = 1.0

    def __post_init__(self) -> None:
        check_positive("kl_weight", self.kl_weight)

    @property
    def priors(self) -> tuple[Prior, Prior, Prior]:
        """All three priors of what everybody shares."""
        return self.update_prior, self.projection_prior, self.head_prior

    def effect(self, adapter: Adapter, by: str | None = None) -> Effect:
        """Make the population effect, or that of an attribute's levels, with these priors."""
        projections = adapter.factors(1, 1).keys() - adapter.zero_factors
        own = dict.fromkeys(sorted(projections), self.projection_prior)
        if by is None:
            for name in sorted(adapter.relevance_factors):
                scale = getattr(self.update_prior, "scale", 1.0)  # a Flat one has none
                own[name] = LearnedNormal(scale, by_column=True)
            return Effect(POPULATION, adapter, self.update_prior, own)
        return Effect(f"by {by}", adapter, self.level_prior, own, by)


FLAT = ModelSettings(Flat(), Flat(), Flat(), Flat())
