"""How many numbers an adapter has, and the rank at which it has as many as another."""

import math
from dataclasses import replace
from typing import Any

from bayes_lora.adapters import Adapter
from bayes_lora.backbone import Backbone
from bayes_lora.errors import ConfigError

MOST_RANK = 4096


def parameters(adapter: Adapter, backbone: Backbone) -> int:
    """Count the entries of all factors in a backbone's layers; constants are not counted."""
    return sum(
        math.prod(factor.stacked(len(group.layers)))
        for group in backbone.groups
        for factor in adapter.factors(group.d_in, group.d_out).values()
    )


def matched(adapter: Adapter, to: Adapter, backbone: Backbone) -> Adapter:
    """Change an adapter's rank so that it has as nearly as possible as many parameters as another.

    Args:
        adapter: One with a rank.
        to: The other.
        backbone: Whose layers they adapt.

    Raises:
        ConfigError: It has no rank, or at rank 1 already half as many again.
    """
    if getattr(adapter, "rank", None) is None:
        raise ConfigError(f"{adapter} has no rank that could be changed.")
    target = parameters(to, backbone)
    ranked: Any = adapter  # a dataclass with a rank

    def count(rank: int) -> int:
        return parameters(replace(ranked, rank=rank), backbone)

    low, high = 1, MOST_RANK
    while low < high:  # the largest rank that is not above
        middle = (low + high + 1) // 2
        if count(middle) <= target:
            low = middle
        else:
            high = middle - 1
    best = min((low, low + 1), key=lambda rank: abs(count(rank) - target))
    found: Adapter = replace(ranked, rank=best)
    if count(best) > 1.5 * target:
        raise ConfigError(
            f"{found} has {count(best)} parameters at the lowest rank, and {to} has {target}: give "
            "the other more."
        )
    return found
