"""AdamW for what everybody shares, and the tables' own steps for levels."""

from collections.abc import Callable
from typing import Any

import torch

from bayes_lora.guides import Guide, LevelPoints
from bayes_lora.inference.settings import FitSettings
from bayes_lora.model import BayesianModel


class TableAdamW(torch.optim.AdamW):
    """AdamW, beside which tables of levels take steps of their own at the same learning rate.

    A table's gradient reaches the levels in the batch alone, and so do its moments: torch's own
    optimizers would touch every level at every step.

    Args:
        groups: Parameter groups; the first one's learning rate is the tables'.
        tables: The tables.
    """

    def __init__(self, groups: list[dict[str, Any]], tables: list[LevelPoints]) -> None:
        super().__init__(groups, weight_decay=0.0)
        self.tables = tables

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step on everything."""
        super().step(closure)
        for table in self.tables:
            table.step(self.param_groups[0]["lr"])


def make_optimizer(
    model: BayesianModel, guide: Guide, settings: FitSettings, steps: int
) -> TableAdamW:
    """AdamW without decay (the prior does that), scales moving at a rate of their own.

    Args:
        model: Has the priors.
        guide: What is fitted.
        settings: Have the rates.
        steps: That the fit takes.
    """
    named = list(guide.named_parameters()) + list(model.named_parameters())
    scales = [value for name, value in named if "log_scale" in name]
    others = [value for name, value in named if "log_scale" not in name]
    groups: list[dict[str, Any]] = [
        {"params": others, "lr": settings.learning_rate},
        {"params": scales, "lr": settings.scale_rate(steps)},
    ]
    tables = [own for own in guide.by_level.values() if isinstance(own, LevelPoints)]
    return TableAdamW([g for g in groups if g["params"]], tables)
