"""Monte Carlo dropout (Gal & Ghahramani 2016, arXiv 1506.02142)."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from bayes_lora.errors import ConfigError
from bayes_lora.guides.base import Guide
from bayes_lora.guides.family import Family
from bayes_lora.guides.projections import projections
from bayes_lora.model import BayesianModel, Site, parameter_name


@dataclass(frozen=True)
class MCDropout(Family):
    """A point whose input features are dropped at random, in training and prediction alike.

    Dropping a feature is a zero column of the weight that reads it, so a draw is one set of
    weights for all rows and tokens. An adapter's own ``dropout`` is another thing: it drops each
    token's features for itself, and in training alone. Under a Normal prior around zero, of
    variance v, the ELBO has the paper's L2 penalty, ``|loc|^2 / (2 v (1 - rate))``; under a Flat
    one none.

    Args:
        rate: Probability that an input feature is dropped.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ConfigError(f"A dropout rate must lie between 0 and 1, not {self.rate}.")

    def build(self, model: BayesianModel) -> "DropoutGuide":
        """Make the guide."""
        return DropoutGuide(model, self.rate)


class DropoutGuide(Guide):
    """A value of every site; of weights that read inputs, columns times ``mask / (1 - rate)``.

    Masked are the adapters' projections (see ``projections``) and the head's matrix. Each layer's
    and each part's inputs have a mask of their own, ``[..., 1, columns]``.

    Args:
        model: The program whose sites the guide samples.
        rate: Probability that a column is zero.
    """

    def __init__(self, model: BayesianModel, rate: float) -> None:
        super().__init__(model)
        self.rate = rate
        heads = {n for n, site in self.sites.items() if site.key is None and len(site.shape) > 1}
        self.masked = projections(model) | heads
        self.loc = nn.ParameterDict(
            {parameter_name(n): nn.Parameter(site.start.clone()) for n, site in self.sites.items()}
        )

    def sample_sites(self) -> dict[str, Tensor]:
        """Draw masks, one for each particle, and return the masked values."""
        return {name: self._sample(site) for name, site in self.sites.items()}

    def _sample(self, site: Site) -> Tensor:
        value: Tensor = self.loc[parameter_name(site.name)]
        if site.name in self.masked:
            value = value * self._mask(site, value) / (1 - self.rate)
        drawn: Tensor = pyro.sample(site.name, dist.Delta(value, event_dim=len(site.shape)))
        return drawn

    def _mask(self, site: Site, like: Tensor) -> Tensor:
        """Draw which columns are kept, as an auxiliary site: Pyro knows how many particles."""
        matrix = len(site.shape) > (1 if site.key is None else 2)
        shape = (*site.shape[:-2], 1, site.shape[-1]) if matrix else site.shape
        uniform = dist.Uniform(like.new_zeros(shape), 1.0).to_event(len(shape))
        noise = pyro.sample(f"{site.name}.noise", uniform, infer={"is_auxiliary": True})
        return (noise >= self.rate).to(like.dtype)

    def stddev(self) -> dict[str, Tensor]:
        """Return the masked sites' standard deviations, ``|loc| sqrt(rate / (1 - rate))``."""
        factor = (self.rate / (1 - self.rate)) ** 0.5
        return {n: value.abs() * factor for n, value in self.mean().items() if n in self.masked}
