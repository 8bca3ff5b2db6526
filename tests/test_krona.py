"""KronA equals the Kronecker product that it never builds."""

import math

import pytest
import torch
from frozen_linear import NO_LAYER
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bayes_lora.adapters import KronA
from bayes_lora.errors import ConfigError

ROWS, VECTORS = 3, 5
SIZES = [(16, 16), (12, 48), (48, 12), (32, 18), (13, 13), (13, 24), (24, 7), (1, 1)]
FORMS = {
    "full": KronA(scale=0.7),
    "low-rank": KronA(rank=3, scale=0.7),
    "rank-one": KronA(rank=1),
}


@pytest.fixture(params=[*FORMS])
def adapter(request: pytest.FixtureRequest) -> KronA:
    return FORMS[request.param]


@pytest.fixture(params=SIZES, ids=str)
def sizes(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


def _factors(
    adapter: KronA, d_in: int, d_out: int, rows: int = ROWS, shared: tuple[str, ...] = ()
) -> dict[str, torch.Tensor]:
    """Random values of natural size; those of ``shared`` are one tensor, expanded over the rows."""
    torch.manual_seed(0)
    return {
        name: (
            torch.randn(1 if name in shared else rows, *factor.shape, dtype=torch.float64)
            * factor.unit
        )
        .expand(rows, *factor.shape)
        .requires_grad_()
        for name, factor in adapter.factors(d_in, d_out).items()
    }


def _plain(x: torch.Tensor, factors: dict[str, torch.Tensor], scale: float) -> torch.Tensor:
    """The definition, a row at a time."""
    D = factors["D"] if "D" in factors else factors["V"] @ factors["U"]
    weights = [scale * torch.kron(c, d) for c, d in zip(factors["C"], D, strict=True)]
    return torch.stack([own @ weight.T for own, weight in zip(x, weights, strict=True)])


@pytest.mark.parametrize("shared", [(), ("C",), ("C", "U")], ids=["each", "C", "C and U"])
def test_values_and_gradients_are_those_of_the_kronecker_product(
    adapter: KronA, sizes: tuple[int, int], shared: tuple[str, ...]
) -> None:
    factors = _factors(adapter, *sizes, shared=shared)
    x = torch.randn(ROWS, VECTORS, sizes[0], dtype=torch.float64, requires_grad=True)
    outputs = adapter.update(x, factors, NO_LAYER), _plain(x, factors, adapter.scale)
    assert outputs[0].shape == (ROWS, VECTORS, sizes[1])
    torch.testing.assert_close(*outputs, atol=1e-12, rtol=0)
    weights = torch.randn_like(outputs[0])
    leaves = [x, *factors.values()]
    ours, truth = (torch.autograd.grad((y * weights).sum(), leaves) for y in outputs)
    torch.testing.assert_close(ours, truth, atol=1e-11, rtol=0)


def test_inputs_need_not_be_contiguous(adapter: KronA) -> None:
    factors = _factors(adapter, 12, 48)
    x = torch.randn(VECTORS, ROWS, 24, dtype=torch.float64)[..., ::2].transpose(0, 1)
    expected = adapter.update(x.contiguous(), factors, NO_LAYER)
    torch.testing.assert_close(adapter.update(x, factors, NO_LAYER), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("d_in", "d_out", "C", "D"),
    [
        (384, 384, (16, 16), (24, 24)),
        (384, 1536, (32, 16), (48, 24)),
        (1536, 384, (16, 32), (24, 48)),
        (768, 768, (24, 24), (32, 32)),
        (49, 384, (16, 7), (24, 7)),
        (13, 7, (1, 1), (7, 13)),
    ],
)
def test_shapes(d_in: int, d_out: int, C: tuple[int, int], D: tuple[int, int]) -> None:
    full, low = KronA().factors(d_in, d_out), KronA(rank=2).factors(d_in, d_out)
    assert {name: factor.shape for name, factor in full.items()} == {"C": C, "D": D}
    shapes = {"C": C, "U": (2, D[1]), "V": (D[0], 2)}
    assert {name: factor.shape for name, factor in low.items()} == shapes


def test_what_starts_random_leaves_something_at_zero_in_every_product(adapter: KronA) -> None:
    factors = adapter.factors(24, 36)
    assert [name for name, f in factors.items() if f.starts_at_zero] == [
        "D" if adapter.rank is None else "V"
    ]
    values = {
        name: value.detach() * (not factors[name].starts_at_zero)
        for name, value in _factors(adapter, 24, 36).items()
    }
    x = torch.randn(ROWS, VECTORS, 24, dtype=torch.float64)
    assert not adapter.update(x, values, NO_LAYER).any()


@pytest.mark.parametrize(("d_in", "d_out"), [(384, 384), (384, 1536), (1536, 384)])
def test_factors_of_natural_size_make_an_update_as_large_as_its_input(
    adapter: KronA, d_in: int, d_out: int
) -> None:
    factors = _factors(adapter, d_in, d_out, rows=200)
    x = torch.randn(200, VECTORS, d_in, dtype=torch.float64)
    size = adapter.update(x, factors, NO_LAYER).pow(2).mean().sqrt() / adapter.scale
    assert 0.9 < size < 1.1


def test_gradients_reach_every_factor_once_the_update_is_off_zero(adapter: KronA) -> None:
    factors = _factors(adapter, 24, 36)
    x = torch.randn(ROWS, VECTORS, 24, dtype=torch.float64)
    loss = adapter.update(x, factors, NO_LAYER).pow(2).sum()
    for gradient in torch.autograd.grad(loss, list(factors.values())):
        assert (gradient != 0).all()


class _Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize(("d_in", "d_out"), [(1024, 1024), (1024, 4096), (4096, 1024)])
def test_nothing_grows_like_the_weight_matrix(adapter: KronA, d_in: int, d_out: int) -> None:
    """Forward and backward; what there is, is of the size of inputs, outputs or factors."""
    factors = _factors(adapter, d_in, d_out, rows=2)
    x = torch.randn(2, 3, d_in, dtype=torch.float64, requires_grad=True)
    with _Largest() as plain:
        _plain(x, factors, adapter.scale)
    assert plain.elements >= d_in * d_out, "the plain product is not seen: the test tests nothing"
    with _Largest() as ours:
        torch.autograd.grad(adapter.update(x, factors, NO_LAYER).sum(), [x, *factors.values()])
    factor = max(math.prod(factor.shape) for factor in adapter.factors(d_in, d_out).values())
    assert ours.elements <= 2 * max(3 * d_in, 3 * d_out, factor)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"KronA rank must be at least 1.* not {rank}"):
        KronA(rank=rank)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match=f"KronA scale must be positive .* not {scale}"):
        KronA(scale=scale)
