"""Low rank plus diagonal: one Gaussian over all weights (Ong et al. 2018, arXiv 1701.03208)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from bayes_lora.errors import ConfigError, check_positive
from bayes_lora.guides.base import Guide
from bayes_lora.guides.family import Family
from bayes_lora.model import BayesianModel, parameter_name

FACTOR_START = 0.1  # of the scales: unlike columns, that hardly widen the guide


@dataclass(frozen=True)
class LowRank(Family):
    """One Gaussian over all weights, of covariance ``F F^T + diag(s^2)``.

    Args:
        rank: Columns of F: in so many directions weights of all sites vary together.
        initial_scale: Where s starts, in units of each factor's natural size, as in ``MeanField``.
    """

    rank: int = 8
    initial_scale: float = 0.12

    def __post_init__(self) -> None:
        check_positive("initial_scale", self.initial_scale)
        if self.rank < 1:
            raise ConfigError(f"The rank of a low-rank guide must be at least 1, not {self.rank}.")

    def build(self, model: BayesianModel) -> "LowRankGuide":
        """Make the guide."""
        return LowRankGuide(model, self.rank, self.initial_scale)


class LowRankGuide(Guide):
    """Normal(loc, F F^T + diag(scale^2)) over the entries of all sites together.

    A draw is ``loc + F z + scale * noise`` with one z for all sites. Given z the sites are
    independent Normals, and that is what the Pyro program says; their joint density is known
    through ``divergence`` alone, so only an ELBO that leaves ``closed`` sites out is right.

    Args:
        model: The program whose sites the guide samples.
        rank: Columns of F.
        initial_scale: Where scales start, in units of each factor's natural size. F starts random,
            the same in every fit.
    """

    symmetric = True

    def __init__(self, model: BayesianModel, rank: int, initial_scale: float) -> None:
        super().__init__(model)
        self.rank = rank
        self.loc = nn.ParameterDict()
        self.log_scale = nn.ParameterDict()
        self.factor = nn.ParameterDict()
        generator = torch.Generator().manual_seed(0)
        for name, site in self.sites.items():
            key, start, scale = parameter_name(name), site.start, initial_scale * site.unit
            self.loc[key] = nn.Parameter(start.clone())
            self.log_scale[key] = nn.Parameter(torch.full_like(start, math.log(scale)))
            noise = torch.randn(rank, *site.shape, generator=generator).to(start)
            self.factor[key] = nn.Parameter(FACTOR_START * scale / math.sqrt(rank) * noise)

    def sample_sites(self) -> dict[str, Tensor]:
        """Sample every site; reparameterised, so gradients reach loc, F and scale."""
        like = next(iter(self.factor.values()))
        noise = dist.Normal(like.new_zeros(self.rank), 1.0).to_event(1)
        # No density: it has none in the model, and the sites' own comes from `divergence`.
        z = pyro.sample("low_rank.z", noise.mask(False), infer={"is_auxiliary": True})
        return {name: pyro.sample(name, self._given(name, z)) for name in self.sites}

    def _given(self, site: str, z: Tensor) -> dist.TorchDistribution:
        """Return a site's Normals given z ``[..., rank]``, with the site's event shape."""
        key, shape = parameter_name(site), self.sites[site].shape
        shift = (z @ self.factor[key].flatten(1)).view(*z.shape[:-1], *shape)
        normal = dist.Normal(self.loc[key] + shift, self.log_scale[key].exp())
        return normal.to_event(len(shape))

    @property
    def closed(self) -> frozenset[str]:
        """All sites."""
        return frozenset(self.sites)

    def divergence(self, prior: Callable[[str], dist.TorchDistribution]) -> Tensor:
        """Return the joint divergence, in O(weights * rank^2).

        Beside the diagonal's own, F adds to the trace, and by the matrix determinant lemma
        ``log det(F F^T + S) = log det(S) + log det(I + F^T S^-1 F)``.
        """
        total = next(iter(self.loc.values())).new_zeros(())
        capacitance = torch.eye(self.rank, dtype=torch.float64, device=total.device)
        for name, site in self.sites.items():
            key, own = parameter_name(name), prior(name)
            scale, factor = self.log_scale[key].exp(), self.factor[key]
            diagonal = dist.Normal(self.loc[key], scale).to_event(len(site.shape))
            trace = (factor.square() / own.variance).sum()
            total = total + kl_divergence(diagonal, own) + 0.5 * trace
            ratio = (factor / scale).flatten(1).double()
            capacitance = capacitance + ratio @ ratio.T
        half_log_det = torch.linalg.cholesky(capacitance).diagonal().log().sum()
        return total - half_log_det.to(total)

    def roots(self, derivatives: Mapping[str, Tensor]) -> Tensor:
        """Map linear functions of the weights to vectors whose inner products are covariances.

        Args:
            derivatives: Of each function by every site, ``[B, *shape]``.

        Returns:
            ``[B, weights + rank]``.
        """
        own, common = [], []
        for name, derivative in derivatives.items():
            key, flat = parameter_name(name), derivative.flatten(1)
            own.append(flat * self.log_scale[key].detach().exp().flatten())
            common.append(flat @ self.factor[key].detach().flatten(1).T)
        return torch.cat([*own, torch.stack(common).sum(0)], dim=1)

    def stddev(self) -> dict[str, Tensor]:
        """Return the marginal standard deviations of every site."""
        found = {}
        for name in self.sites:
            key = parameter_name(name)
            common = self.factor[key].detach().square().sum(0)
            found[name] = (common + self.log_scale[key].detach().mul(2).exp()).sqrt()
        return found
