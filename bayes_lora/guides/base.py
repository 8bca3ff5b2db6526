"""What a guide is: a Pyro program with the model's sites, and where it starts."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from bayes_lora.model import BayesianModel
from bayes_lora.scorers import Batch


class Guide(nn.Module, ABC):
    """A variational family over the model's sites; its parameters are fp32 and its own.

    To add one: a new file here, a line in ``GUIDES``, and the conformance suite runs it.

    Args:
        model: The program whose sites the guide samples, at their starting values.
    """

    random = True  # whether draws differ

    def __init__(self, model: BayesianModel) -> None:
        super().__init__()
        self.sites = model.sites

    @abstractmethod
    def forward(
        self, batch: Batch | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Sample every site with ``pyro.sample`` and return the values by site name."""

    @abstractmethod
    def mean(self) -> dict[str, Tensor]:
        """Return the mean of every site, ``[*shape]``."""


def sample(guide: Guide, num_draws: int, seed: int) -> dict[str, Tensor]:
    """Draw from a guide, the same draws for the same seed.

    Args:
        guide: A fitted guide.
        num_draws: How many, at least 1.
        seed: Draw i depends on the seed and i alone, so more draws extend fewer.

    Returns:
        Site name to values, ``[num_draws, *shape]``.
    """
    device = next(guide.parameters()).device
    draws = []
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for i in range(num_draws):
            torch.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]))
            draws.append(guide())
    return {name: torch.stack([draw[name] for draw in draws]) for name in guide.sites}
