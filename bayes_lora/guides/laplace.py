"""Laplace: a Normal around the mode with the inverse of its curvature as covariance.

Ritter et al. (2018, ICLR), Daxberger et al. (2021, arXiv 2106.14806), and over LoRA's weights
Yang et al. (2024, arXiv 2308.13111). ``inference.laplace`` measures the curvature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayes_lora.errors import ConfigError
from bayes_lora.guides.base import Guide, scaled
from bayes_lora.guides.family import Family
from bayes_lora.model import BayesianModel, Site, parameter_name


class Structure(StrEnum):
    """Which entries of a site's curvature are kept: all of a layer's, as a product, or one each."""

    KRONECKER = "kronecker"
    DIAGONAL = "diagonal"


@dataclass(frozen=True)
class Laplace(Family):
    """A Normal around the mode, its precision the curvature there.

    Sites, and a site's layers, are independent. Of an ``[m, n]`` matrix, a Kronecker structure has
    an ``[m, m]`` and an ``[n, n]`` factor, which are stored; of a vector, all of its covariance.

    Args:
        structure: ``kronecker`` or ``diagonal``.
        layers: Only the last so many adapted layers of each kind, and the head, are random, the
            others points; None: all. 0: the head alone.
    """

    structure: Structure = Structure.KRONECKER
    layers: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "structure", Structure(self.structure))
        if self.layers is not None and self.layers < 0:
            raise ConfigError(f"layers cannot be negative: {self.layers}.")

    def build(self, model: BayesianModel) -> "LaplaceGuide":
        """Make the guide, a point until its curvature is known."""
        if self.structure is Structure.DIAGONAL:
            return LaplaceGuide(model, self.layers)
        return KroneckerLaplaceGuide(model, self.layers)

    def linearises(self, class_head: bool) -> bool:
        """Linearise: the curvature is that of the linearised model."""
        return True


@dataclass(frozen=True)
class DiagonalLaplace(Laplace):
    """Laplace with a diagonal covariance."""

    structure: Structure = Structure.DIAGONAL


class LaplaceGuide(Guide):
    """Normal(loc, scale^2) along orthogonal directions; here along the weights themselves.

    Args:
        model: The program whose sites the guide samples.
        layers: As in ``Laplace``.

    Raises:
        ConfigError: No site is left that could be random.
    """

    symmetric = True

    def __init__(self, model: BayesianModel, layers: int | None) -> None:
        super().__init__(model)
        self._first = _first_random(self.sites, layers)
        if not self._first:
            raise ConfigError(
                f"With layers={layers} no weight is random, as the scorer has none of its own: "
                "raise it."
            )
        self.loc = nn.ParameterDict()
        self.scale = nn.ParameterDict()
        for name, site in self.sites.items():
            self.loc[parameter_name(name)] = constant(site.start.clone())
        for name, first in self._first.items():
            start = self.sites[name].start
            random = as_matrices(self.sites[name], start[first:] if first else start)
            self.scale[parameter_name(name)] = constant(torch.zeros_like(random))

    @property
    def first_random(self) -> dict[str, int]:
        """Those of the last layers, and the head."""
        return self._first

    def sample_sites(self) -> dict[str, Tensor]:
        """Sample every site; points are Deltas."""
        return {name: self._sample(name) for name in self.sites}

    def stddev(self) -> dict[str, Tensor]:
        """Return the weights' own standard deviations; zero in the layers that are points."""
        return {n: self._deviation(n, self._variance(n).sqrt()) for n in self._first}

    def roots(self, derivatives: Mapping[str, Tensor]) -> Tensor:
        """Each direction's derivative times its scale."""
        along = {
            parameter_name(n): self.directions(n, as_matrices(self.sites[n], own))
            for n, own in derivatives.items()
        }
        return scaled([(own, self.scale[key]) for key, own in along.items()])

    def directions(self, site: str, matrices: Tensor) -> Tensor:
        """Turn weights, or derivatives by them, into what lies along a site's directions.

        Args:
            site: Its name.
            matrices: As ``as_matrices`` gives them, ``[..., m, n]``.
        """
        return matrices

    def weights(self, site: str, matrices: Tensor) -> Tensor:
        """Turn what lies along a site's directions into weights, ``[..., m, n]``."""
        return matrices

    def _variance(self, site: str) -> Tensor:
        return self.scale[parameter_name(site)].square()

    def _sample(self, name: str) -> Tensor:
        loc, events = self.loc[parameter_name(name)], len(self.sites[name].shape)
        if name not in self._first:
            return pyro.sample(name, dist.Delta(loc, event_dim=events))
        # As Pyro's own guides do: the noise has a density, and the weights the volume's change.
        scale = self.scale[parameter_name(name)]
        standard = dist.Normal(torch.zeros_like(scale), 1.0).to_event(scale.dim())
        noise = pyro.sample(f"{name}.noise", standard, infer={"is_auxiliary": True})
        # The symmetric root: a small change of the curvature turns eigenvectors, and no draw.
        along = scale * self.directions(name, noise)
        value = loc + self._deviation(name, self.weights(name, along))
        density = -scale.log().sum().expand(value.shape[: value.dim() - events])
        return pyro.sample(name, dist.Delta(value, log_density=density, event_dim=events))

    def _deviation(self, name: str, matrices: Tensor) -> Tensor:
        """Give matrices the site's shape, with zeros in the layers that are points."""
        shape, first = self.sites[name].shape, self._first[name]
        lead = matrices.shape[: matrices.dim() - self.scale[parameter_name(name)].dim()]
        if not first:
            return matrices.reshape(*lead, *shape)
        random = matrices.reshape(*lead, shape[0] - first, *shape[1:])
        return torch.cat([random.new_zeros(*lead, first, *shape[1:]), random], dim=len(lead))


class KroneckerLaplaceGuide(LaplaceGuide):
    """Directions are products of an ``[m, m]`` and an ``[n, n]`` orthogonal basis, a layer each."""

    def __init__(self, model: BayesianModel, layers: int | None) -> None:
        super().__init__(model, layers)
        self.left, self.right = nn.ParameterDict(), nn.ParameterDict()
        for key, scale in self.scale.items():
            *lead, m, n = scale.shape
            self.left[key] = constant(torch.eye(m).to(scale).repeat(*lead, 1, 1))
            self.right[key] = constant(torch.eye(n).to(scale).repeat(*lead, 1, 1))

    def directions(self, site: str, matrices: Tensor) -> Tensor:
        """Return ``left^T matrices right``."""
        left, right = self.left[parameter_name(site)], self.right[parameter_name(site)]
        return _by_layer(matrices, left.transpose(-1, -2), right)

    def weights(self, site: str, matrices: Tensor) -> Tensor:
        """Return ``left matrices right^T``."""
        left, right = self.left[parameter_name(site)], self.right[parameter_name(site)]
        return _by_layer(matrices, left, right.transpose(-1, -2))

    def _variance(self, site: str) -> Tensor:
        key = parameter_name(site)
        left, right = self.left[key].square(), self.right[key].square()
        return left @ super()._variance(site) @ right.transpose(-1, -2)


def constant(value: Tensor) -> nn.Parameter:
    """Make a tensor that is saved and moved with its module, and not trained."""
    return nn.Parameter(value, requires_grad=False)


def as_matrices(site: Site, value: Tensor) -> Tensor:
    """View values of a site, ``[..., *shape]``, as matrices: a vector is ``[1, n]``.

    The first dimension of an adapter's site counts layers; those before the last two are layers
    too, such as experts.
    """
    inner = len(site.shape) - (site.key is not None)
    if inner >= 2:
        return value
    return value.unsqueeze(-2) if inner else value[..., None, None]


def _first_random(sites: Mapping[str, Site], layers: int | None) -> dict[str, int]:
    """Find the first entry of each site that the last layers use; not the sites they do not."""
    if layers is None:
        return dict.fromkeys(sites, 0)
    first, depth = {}, dict[tuple[str, str], int]()
    for site in sites.values():
        if site.key:
            depth[site.key[:2]] = max(depth.get(site.key[:2], 0), site.shape[0])
    for name, site in sites.items():
        if site.key is None:
            first[name] = 0
            continue
        # Adjacent layers may share an entry: there are fewer entries than layers then.
        whole = depth[site.key[:2]]
        start = max(whole - layers, 0) * site.shape[0] // whole
        if start < site.shape[0]:
            first[name] = start
    return first


def _by_layer(matrices: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return ``left matrices right`` of ``[*rows, *lead, m, n]``.

    A row at a time by the smaller basis, and for all rows of a layer in one product by the larger.
    """
    m, n = matrices.shape[-2:]
    if m > n:
        turned = _by_layer(*(own.transpose(-1, -2) for own in (matrices, right, left)))
        return turned.transpose(-1, -2)
    right = right.reshape(-1, n, n)
    stacked = (left @ matrices).reshape(-1, len(right), m, n).transpose(0, 1)
    turned = (stacked.flatten(1, 2) @ right).view(stacked.shape)
    return turned.transpose(0, 1).reshape(matrices.shape)
