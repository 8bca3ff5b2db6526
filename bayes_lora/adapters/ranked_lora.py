"""LoRA whose rank is learned, by automatic relevance determination (MacKay 1992; Tipping 2001)."""

from dataclasses import dataclass

from bayes_lora.adapters.lora import LoRA


@dataclass(frozen=True)
class RankedLoRA(LoRA):
    """LoRA with a prior scale for each column of B, learned with the ELBO.

    A column that the data have no use for is only noise to the likelihood: its scale goes to zero,
    and with it what the column does. So the rank is an upper bound; ``ranks.py`` counts what is
    left of it, and prunes. All factors are random; a point cannot learn a scale.

    Args:
        rank: Of the update, at most.
    """

    @property
    def relevance_factors(self) -> frozenset[str]:
        """B, column by column."""
        return frozenset({"B"})
