"""What a guide is: a Pyro program with the model's sites, and where it starts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from bayes_lora.errors import UnsupportedError
from bayes_lora.guides.levels import LevelGuide
from bayes_lora.level_effect import LevelBatch, LevelEffect
from bayes_lora.model import BayesianModel, level_site, parameter_name
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
        self.level_guides = nn.ModuleDict()
        self.by_level: dict[str, LevelGuide] = {}
        for name, effect in model.by_level.items():
            self.by_level[name] = self.make_levels(effect)
            self.level_guides[parameter_name(name)] = self.by_level[name]

    def make_levels(self, effect: LevelEffect) -> LevelGuide:
        """Make the posterior of an effect's levels, at its start.

        Raises:
            ConfigError: The family cannot have the effect's prior.
            UnsupportedError: It has none for levels at all.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no posterior for the levels of {effect.levels.attribute!r}:"
            " leave the attribute out, or take another guide."
        )

    def forward(
        self,
        batch: Batch | None = None,
        labels: Tensor | None = None,
        levels: Mapping[str, LevelBatch] | None = None,
    ) -> dict[str, Tensor]:
        """Sample every site with ``pyro.sample`` and return the values by site name.

        Args:
            batch: Not looked at.
            labels: Not looked at.
            levels: As for the model; the values of their sites are not returned.
        """
        values = self.sample_sites()
        for name, own in (levels or {}).items():
            with own.plate(name):
                self.by_level[name].sample(level_site(name), own.present)
        return values

    @abstractmethod
    def sample_sites(self) -> dict[str, Tensor]:
        """Sample every site but those of levels, and return the values by site name."""

    def distribution(self, site: str) -> TorchDistribution | None:
        """Return a site's distribution, by itself and with the site's event shape.

        Where it is known, its divergence from the prior is computed in closed form. None: it is a
        point, or depends on other sites' draws.
        """
        return None

    @abstractmethod
    def mean(self) -> dict[str, Tensor]:
        """Return the mean of every site but those of levels, ``[*shape]``."""


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
