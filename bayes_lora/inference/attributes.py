"""What a fit with attributes is, and the recipe published for one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bayes_lora.adapters import Adapter, KronA, LoRA
from bayes_lora.errors import ConfigError
from bayes_lora.fusion import Fusion
from bayes_lora.guides import Family, MeanField
from bayes_lora.inference.settings import FitSettings
from bayes_lora.terms import Terms


@dataclass(frozen=True)
class AttributeSettings:
    """Which attributes have levels of their own, and how these and the population are joined.

    The defaults are a mixed-effects model. The rest is M2A's published recipe and its ablations.

    Args:
        columns: The attributes, such as ``("user_id", "business_id")``.
        adapter: Of each attribute; its levels differ in the factors that start at zero.
        population: Whether everybody also shares an adapter (M2A's coarse view).
        fusion: How views become one prediction.
        terms: What is observed beside the labels.
        separation: Optimizer steps that the population takes alone after the fit, to predict where
            a row's levels are unknown (M2A's separation stage); points only.
    """

    columns: tuple[str, ...]
    adapter: Adapter = field(default_factory=KronA)
    population: bool = True
    fusion: Fusion = Fusion.SUM
    terms: Terms = field(default_factory=Terms)
    separation: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "fusion", Fusion(self.fusion))
        if self.separation < 0:
            raise ConfigError(f"separation must be 0 steps or more, not {self.separation}.")
        if not self.columns and (self.terms.distillation or self.separation):
            raise ConfigError("Distillation and separation are for a fit with attributes.")
        if not self.columns and not self.population:
            raise ConfigError("A fit needs the population's adapter or an attribute.")

    def check(self, family: Family) -> None:
        """Check that a family can be fitted so.

        Raises:
            ConfigError: It cannot.
        """
        if not isinstance(family, MeanField) or not self.columns:
            return
        if self.fusion is not Fusion.SUM or self.terms.distillation or self.separation:
            raise ConfigError(
                "Fusion by average or predictions, distillation and separation are for the guides "
                "'mle' and 'map', whose levels are fitted with the population; a mean-field "
                "posterior sums the updates, and needs neither."
            )


def m2a(columns: Sequence[str]) -> dict[str, Any]:
    """M2A as published (arXiv 2503.06085, section 4 and its released settings), for ``fit``.

    Point weights; LoRA of rank 128 beside KronA, averaged; masked LM or next token with weight
    0.5; distillation; AdamW with 2e-5, batches of 32, 30 epochs, stopped early on ``dev`` after
    three evaluations; then the population alone. It adapts the same layers with both views,
    where M2A has the coarse one on others.

    Args:
        columns: The attributes.

    Returns:
        Keyword arguments of ``fit``.
    """
    return {
        "guide": "mle",
        "adapter": LoRA(rank=128),
        "settings": FitSettings(epochs=30, learning_rate=2e-5, max_grad_norm=2.0, patience=3),
        "attributes": AttributeSettings(
            tuple(columns), fusion=Fusion.AVERAGE, terms=Terms(0.5, True), separation=100
        ),
    }


RECIPES = {"m2a": m2a}
