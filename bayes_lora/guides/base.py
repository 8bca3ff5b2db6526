"""What a guide is: a Pyro program with the model's sites, and where it starts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

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
    """A distribution over the model's sites; its parameters are fp32 and its own.

    Args:
        model: The program whose sites the guide samples, at their starting values.
    """

    most_draws: int | None = None  # how many draws differ; None: all
    symmetric = False  # whether a draw's mirror image, across the mean, is as likely
    loc: nn.ParameterDict  # of a family whose mean it is

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

    @property
    def random(self) -> bool:
        """Whether draws differ."""
        return self.most_draws != 1

    @property
    def closed(self) -> frozenset[str]:
        """Sites whose divergence from the prior is known in closed form."""
        return frozenset()

    def divergence(self, prior: Callable[[str], TorchDistribution]) -> Tensor | float:
        """Return KL(guide, prior) of these sites, in nats.

        Args:
            prior: Gives a site's prior by its name.
        """
        return 0.0

    def draw(self, number: int) -> dict[str, Tensor]:
        """Make the draw of that number, ``[*shape]`` each, from the state of the generators."""
        return self.forward()

    def stddev(self) -> dict[str, Tensor]:
        """Return the standard deviations of every site that is no point, ``[*shape]``."""
        return {}

    @property
    def first_random(self) -> dict[str, int]:
        """Of each site that is no point, its first entry that is none; those below are points."""
        return dict.fromkeys(self.sites, 0)

    def roots(self, derivatives: Mapping[str, Tensor]) -> Tensor:
        """Take a square root of the covariance of linear functions of the weights.

        Args:
            derivatives: Of B functions by the weights: of each site of ``first_random`` that they
                depend on, ``[B, entries, *rest]``, without the entries that are points.

        Returns:
            ``[B, D]``: the inner product of two functions' is their covariance.

        Raises:
            UnsupportedError: The family's covariance is not known.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no covariance to linearise with: predict with draws, or "
            "fit another guide, such as 'laplace' or 'mean-field'."
        )

    def mean(self) -> dict[str, Tensor]:
        """Return the mean of every site but those of levels, ``[*shape]``: its ``loc``."""
        return {name: self.loc[parameter_name(name)].detach() for name in self.sites}


def scaled(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Multiply ``[B, ...]`` by scales ``[...]``, part by part, and join them: ``[B, D]``."""
    rows, total = len(parts[0][0]), sum(scale.numel() for _, scale in parts)
    out = parts[0][0].new_empty(rows, total)
    places = out.split([scale.numel() for _, scale in parts], dim=1)
    for (values, scale), place in zip(parts, places, strict=True):
        torch.mul(values, scale, out=place.view(values.shape))  # no copies: they are large
    return out


def sample(guide: Guide, num_draws: int, seed: int) -> dict[str, Tensor]:
    """Draw from a guide, the same draws for the same seed.

    Of a symmetric guide every second draw is the mirror image of the one before: as good a draw,
    and what a pair averages to varies less (antithetic variates: Hammersley & Morton 1956).

    Args:
        guide: A fitted guide.
        num_draws: How many, at least 1; no more are made than differ.
        seed: Draw i depends on the seed and i alone, so more draws extend fewer.

    Returns:
        Site name to values, ``[draws, *shape]``.
    """
    if guide.most_draws is not None:
        num_draws = min(num_draws, guide.most_draws)
    device = next(guide.parameters()).device
    mean = guide.mean() if guide.symmetric else {}
    draws: list[dict[str, Tensor]] = []
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        for i in range(num_draws):
            if guide.symmetric and i % 2:
                draws.append({name: 2 * mean[name] - own for name, own in draws[-1].items()})
                continue
            torch.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]))
            draws.append(guide.draw(i))
    return {name: torch.stack([draw[name] for draw in draws]) for name in guide.sites}
