"""The effective rank of a fitted LoRA, and pruning to it.

Which columns of B hold an update is arbitrary: any rotation of them, undone in A, is the same
update. So its rank is counted by singular values, against those of the posterior's own noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayes_lora.adapters import LoRA, LoRAStart
from bayes_lora.backbone.targets import LayerGroup
from bayes_lora.errors import UnsupportedError
from bayes_lora.guides import MeanFieldGuide
from bayes_lora.inference.methods import guide_name
from bayes_lora.model import parameter_name
from bayes_lora.posterior import Posterior

DRAWS = 16  # to measure the noise with


@dataclass(frozen=True)
class LayerRank:
    """The rank of one layer's update.

    Args:
        layer: Its name in the backbone.
        values: Singular values of the update's posterior mean, descending.
        noise: The largest singular value of a draw's difference from the mean, a mean over draws:
            what stands out from it is known to be there.
        effective: How many values do.
    """

    layer: str
    values: tuple[float, ...]
    noise: float
    effective: int


def effective_ranks(posterior: Posterior) -> list[LayerRank]:
    """Count the directions of each layer's update that stand out from the posterior's noise.

    Raises:
        UnsupportedError: Not a mean-field posterior over one LoRA that everybody shares.
    """
    scale = _adapter(posterior).scale
    draws = posterior.draw(DRAWS)
    found = []
    for group, A, B in _groups(posterior):
        for i, layer in enumerate(group.layers):
            values = scale * _singular_values(B[i], A[i])
            noise = scale * torch.stack(
                [
                    _singular_values(torch.cat([b[i], -B[i]], 1), torch.cat([a[i], A[i]]))[0]
                    for a, b in zip(
                        draws[_site(group.name, "A")], draws[_site(group.name, "B")], strict=True
                    )
                ]
            )
            edge = float(noise.mean())
            above = int((values > edge).sum())
            found.append(LayerRank(layer, tuple(values.tolist()), edge, above))
    return found


def prune(posterior: Posterior) -> Posterior:
    """Keep of every layer's update as many directions as stand out in the layer with most.

    Means are the best approximation of that rank. Standard deviations, and the priors' centres
    and scales, are those of the rotated factors, entry by entry.

    Returns:
        Another posterior, of that rank, on the same backbone.

    Raises:
        UnsupportedError: As ``effective_ranks``.
    """
    rank = max(1, *(layer.effective for layer in effective_ranks(posterior)))
    adapter, (effect,) = _adapter(posterior), posterior.config.effects
    alpha = None if adapter.alpha is None else adapter.scale * rank
    smaller = replace(adapter, rank=rank, alpha=alpha, rank_stabilized=False)
    config = replace(posterior.config, effects=(replace(effect, adapter=smaller),))
    model, guide = config.build(posterior.model.backbone)
    states = posterior.guide.state_dict(), posterior.model.state_dict()
    turns = {}  # of each site, by its name in a state
    for group, A, B in _groups(posterior):
        turned = [_rotation(b, a, rank) for b, a in zip(B, A, strict=True)]
        for factor, part in zip(("B", "A"), zip(*turned, strict=True), strict=True):
            turns[parameter_name(_site(group.name, factor))] = factor == "A", torch.stack(part)
    for state in states:
        for name, value in state.items():
            for is_A, along in (turns[own] for own in name.split(".") if own in turns):
                state[name] = _turned(value, along, is_A, "log_scale" in name)
    guide.load_state_dict(states[0])
    model.load_state_dict(states[1])
    return Posterior(model, guide, config)


def rank_of(posterior: Posterior) -> int:
    """Return the rank that a run has, used or not.

    Raises:
        UnsupportedError: As ``effective_ranks``.
    """
    return _adapter(posterior).rank


def _adapter(posterior: Posterior) -> LoRA:
    """Return the LoRA whose rank can be counted."""
    adapter = posterior.config.shared_adapter
    if isinstance(adapter, LoRA) and isinstance(posterior.guide, MeanFieldGuide):
        plain = set(adapter.factors(1, 1)) == {"A", "B"} and adapter.start is not LoRAStart.PISSA
        if plain:
            return adapter
    kinds = [type(own.adapter).__name__ for own in posterior.config.effects]
    raise UnsupportedError(
        "A rank is counted of one LoRA for all rows alike, without a PiSSA start and with the "
        f"guide mean-field; this run has {', '.join(kinds) or 'no adapter'} and "
        f"the guide {guide_name(posterior.config.guide)}."
    )


def _groups(posterior: Posterior) -> Iterator[tuple[LayerGroup, Tensor, Tensor]]:
    """Yield each group of layers with the posterior means of A and B."""
    mean = posterior.guide.mean()
    for group in posterior.model.backbone.groups:
        yield group, mean[_site(group.name, "A")], mean[_site(group.name, "B")]


def _singular_values(left: Tensor, right: Tensor) -> Tensor:
    """Return those of a product ``[d, r] [r, e]``, of which at most r are not zero."""
    return torch.linalg.svdvals(torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T)


def _rotation(B: Tensor, A: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Find T and its inverse such that ``B T`` and ``T^-1 A`` hold the largest singular values.

    Returns:
        T ``[r, rank]``, and ``[rank, r]`` for A.
    """
    L = torch.linalg.qr(A.T).R.T  # A = L Q, the rows of Q orthonormal
    Z = torch.linalg.svd(B @ L, full_matrices=False).Vh[:rank]
    return L @ Z.T, Z @ torch.linalg.pinv(L)


def _turned(value: Tensor, along: Tensor, is_A: bool, is_log_scale: bool) -> Tensor:
    """Rotate means, or log scales, of a factor that is stacked over layers."""
    own = value.exp().square() if is_log_scale else value
    if own.dim() < 3 or (1 in own.shape[1:] and not is_log_scale):
        return value  # one scale, or centre, for all
    turn = along.square() if is_log_scale else along
    own = turn @ own if is_A else own @ turn
    return own.sqrt().log() if is_log_scale else own


def _site(group: str, factor: str) -> str:
    return f"population.{group}.{factor}"
