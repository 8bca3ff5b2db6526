"""Every adapter alone, against its paper's formula written down densely, one group at a time."""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from frozen_linear import FrozenLinear
from torch import Tensor

from bayes_lora.adapters import (
    ADAPTERS,
    MASA,
    Adapter,
    DoRA,
    HydraLoRA,
    KronA,
    Layers,
    LoRA,
    LoRAStart,
    LoRAXS,
    Mixing,
    MTLLoRA,
    MultiLoRA,
    VeRA,
)
from bayes_lora.errors import ConfigError

Values = Mapping[str, Tensor]
GROUPS, VECTORS, LAYERS = 3, 5, 4
SIZES = [(12, 12), (12, 18), (18, 12)]


def lora(own: LoRA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    return own.scale * v["B"] @ v["A"] @ x


def pissa(own: LoRA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    """As published: the weight without its leading part, and that part as an adapter."""
    U, S, V = torch.linalg.svd(W.float(), full_matrices=False)
    leading = (U[:, : own.rank] * S[: own.rank]) @ V[: own.rank]
    return (W - leading + own.scale * v["B"] @ v["A"] - W) @ x


def dora(own: DoRA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    direction = W + own.scale * v["B"] @ v["A"]
    magnitude = W.norm(dim=1) * (1 + v["magnitude"])
    return (magnitude / direction.norm(dim=1))[:, None] * direction @ x - W @ x


def lora_xs(own: LoRAXS, W: Tensor, v: Values, x: Tensor) -> Tensor:
    """U S R V', with signs that cancel only where R is the identity: taken from the constants."""
    U, S, V = torch.linalg.svd(W.float(), full_matrices=False)
    signs = (v["down"] @ V[: own.rank].T).diagonal().round()
    assert set(signs.abs().tolist()) == {1.0}
    left = U[:, : own.rank] * signs * S[: own.rank]
    return own.scale * left @ v["R"] @ (signs[:, None] * V[: own.rank]) @ x


def vera(own: VeRA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    return torch.diag(v["b"]) @ v["B"] @ torch.diag(v["d"]) @ v["A"] @ x


def multi_lora(own: MultiLoRA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    parts = zip(v["s"], v["B"], v["A"].chunk(own.number), strict=True)
    return own.scale * torch.stack([torch.diag(s) @ B @ A for s, B, A in parts]).sum(0) @ x


def hydra_lora(own: HydraLoRA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    gate = (v["G"] @ x).softmax(0)  # [n, N]
    return own.scale * sum(g * (B @ v["A"] @ x) for g, B in zip(gate, v["B"], strict=True))


def mtl_lora(own: MTLLoRA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    weights = ((v["mix0"] + v["mix"]) / own.temperature).softmax(0)
    L = torch.eye(own.rank) + v["L"]
    return own.scale * sum(w * B @ L @ v["A"] @ x for w, B in zip(weights, v["B"], strict=True))


def masa(own: MASA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    parts = [A @ x for A in v["A"].chunk(own.number)]
    if own.mixing is Mixing.CONCATENATION:
        return own.scale * v["B"] @ torch.cat(parts)
    gate = (v["G"] @ x).softmax(0)
    return own.scale * v["B"] @ sum(g * part for g, part in zip(gate, parts, strict=True))


def krona(own: KronA, W: Tensor, v: Values, x: Tensor) -> Tensor:
    return own.scale * torch.kron(v["C"], v["D"]) @ x


# To add an adapter: a line here, with its formula for one group, inputs as columns.
CASES: dict[str, tuple[Adapter, Callable[..., Tensor]]] = {
    "lora": (LoRA(rank=3), lora),
    "lora-rank-stabilized": (LoRA(rank=4, alpha=3.0, rank_stabilized=True), lora),
    "lora-orthogonal": (LoRA(rank=3, start=LoRAStart.ORTHOGONAL), lora),
    "lora-pissa": (LoRA(rank=3, start=LoRAStart.PISSA), pissa),
    "dora": (DoRA(rank=3), dora),
    "lora-xs": (LoRAXS(rank=3, scale=1.5), lora_xs),
    "vera": (VeRA(rank=7), vera),
    "krona": (KronA(scale=0.7), krona),
    "multi-lora": (MultiLoRA(rank=2, number=3), multi_lora),
    "hydra-lora": (HydraLoRA(rank=3, experts=4), hydra_lora),
    "mtl-lora": (MTLLoRA(rank=3, experts=2, temperature=0.5), mtl_lora),
    "masa-gate": (MASA(rank=2, number=3), masa),
    "masa-concatenation": (MASA(rank=2, number=3, mixing=Mixing.CONCATENATION), masa),
}


@pytest.fixture(params=[*CASES])
def case(request: pytest.FixtureRequest) -> tuple[Adapter, Callable[..., Tensor]]:
    return CASES[request.param]


class Problem:
    """An adapter on random layers of one size, its factors started and then moved, in float64."""

    def __init__(self, adapter: Adapter, d_in: int, d_out: int, moved: bool = True) -> None:
        generator = torch.Generator().manual_seed(d_in + 2 * d_out)
        self.adapter = adapter
        shape = (LAYERS, d_out, d_in)
        self.weights = torch.randn(shape, generator=generator) * d_in**-0.5
        self.layers = Layers(d_in, d_out, LAYERS, lambda: iter(self.weights))
        self.starts = adapter.starts(self.layers, generator)
        self.constants = adapter.constants(self.layers, self.starts, generator)
        self.x = torch.randn(GROUPS, VECTORS, d_in, generator=generator).double()
        self.values = {}
        for name, start in self.starts.items():
            noise = torch.randn(GROUPS, *start.shape, generator=generator)
            unit = adapter.factors(d_in, d_out)[name].unit
            self.values[name] = (start + noise * unit * 0.3 * moved).double()

    def factors(self, layer: int) -> dict[str, Tensor]:
        """What the layer takes, ``[groups, ...]``."""
        own = {n: v[:, layer * v.shape[1] // LAYERS] for n, v in self.values.items()}
        return own | {
            n: v[layer * len(v) // LAYERS].double().expand(GROUPS, *v.shape[1:])
            for n, v in self.constants.items()
        }

    def update(self, layer: int, values: Values | None = None) -> Tensor:
        frozen = FrozenLinear(self.weights[layer].double(), self.x)
        return self.adapter.update(self.x, values or self.factors(layer), frozen)


@pytest.mark.parametrize("size", SIZES)
def test_the_update_is_the_papers_formula(
    case: tuple[Adapter, Callable[..., Tensor]], size: tuple[int, int]
) -> None:
    adapter, formula = case
    problem = Problem(adapter, *size)
    for layer in range(LAYERS):
        update, factors = problem.update(layer), problem.factors(layer)
        assert update.abs().max() > 0.05, "hardly an update: the test tests nothing"
        for group in range(GROUPS):
            own = {name: value[group].float() for name, value in factors.items()}
            inputs = problem.x[group].float().T
            expected = formula(adapter, problem.weights[layer], own, inputs).T
            torch.testing.assert_close(update[group].float(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_it_starts_as_no_update_and_every_factor_could_learn(
    case: tuple[Adapter, Callable[..., Tensor]], size: tuple[int, int]
) -> None:
    """Some factors have no gradient at the start (LoRA's A); a little further all have one."""
    adapter, _ = case
    start = Problem(adapter, *size, moved=False)
    assert start.update(0).abs().max() < 1e-5
    moved = Problem(adapter, *size)
    factors = {n: v.clone().requires_grad_() for n, v in moved.factors(0).items()}
    update = moved.update(0, factors)
    named = {name: factors[name] for name in moved.starts}
    gradients = torch.autograd.grad(update.pow(2).sum(), list(named.values()))
    for name, gradient in zip(named, gradients, strict=True):
        assert gradient.flatten(1).abs().amax(1).min() > 0, f"{name} has no gradient"


def test_factors_have_the_shapes_they_say(case: tuple[Adapter, Callable[..., Tensor]]) -> None:
    adapter, _ = case
    problem = Problem(adapter, 12, 18)
    factors = adapter.factors(12, 18)
    assert list(problem.starts) == list(factors)
    for name, factor in factors.items():
        assert problem.starts[name].shape == factor.stacked(LAYERS)
        assert problem.starts[name].any() == (not factor.starts_at_zero)
    assert adapter.level_factors <= adapter.zero_factors


def test_the_same_seed_gives_the_same_starts_and_constants(
    case: tuple[Adapter, Callable[..., Tensor]],
) -> None:
    adapter, _ = case
    first, second = Problem(adapter, 12, 12), Problem(adapter, 12, 12)
    for own, other in ((first.starts, second.starts), (first.constants, second.constants)):
        assert all(torch.equal(own[name], other[name]) for name in own | other)


def test_an_orthogonal_start_has_orthonormal_rows() -> None:
    A = Problem(LoRA(rank=5, start=LoRAStart.ORTHOGONAL), 12, 18).starts["A"]
    torch.testing.assert_close(A @ A.transpose(1, 2), torch.eye(5).expand(LAYERS, 5, 5))


def test_pissa_starts_at_the_best_approximation_of_its_rank() -> None:
    """No matrix of that rank is nearer: the rest's size is that of the other singular values."""
    problem = Problem(LoRA(rank=4, start=LoRAStart.PISSA), 12, 18)
    products = 2.0 * problem.starts["B"] @ problem.starts["A"]
    for weight, product in zip(problem.weights, products, strict=True):
        rest = torch.linalg.svdvals(weight)[4:].square().sum().sqrt()
        assert (weight - product).norm() == pytest.approx(rest.item(), rel=1e-4)


def test_layers_of_a_group_share_masas_a() -> None:
    problem = Problem(MASA(rank=2, number=2, group=3), 12, 12)
    assert problem.values["A"].shape[1] == problem.values["G"].shape[1] == 2  # of 4 layers
    assert problem.values["B"].shape[1] == 4
    A = [problem.factors(layer)["A"] for layer in range(LAYERS)]
    assert torch.equal(A[0], A[1])
    assert torch.equal(A[2], A[3])
    assert not torch.equal(A[1], A[2])


@pytest.mark.parametrize("mixing", list(Mixing))
def test_masa_of_one_a_and_a_layer_a_group_is_lora(mixing: Mixing) -> None:
    """The same factors, starts and updates, bit by bit."""
    of_masa = Problem(MASA(rank=3, number=1, group=1, mixing=mixing), 12, 18)
    of_lora = Problem(LoRA(rank=3), 12, 18)
    assert of_masa.adapter.factors(12, 18) == of_lora.adapter.factors(12, 18)
    for layer in range(LAYERS):
        assert torch.equal(of_masa.update(layer), of_lora.update(layer))


def test_a_sum_of_several_a_would_be_one_a() -> None:
    """Why MASA must mix in another way: equal gates change nothing but the A."""
    adapter = MASA(rank=2, number=3)
    problem = Problem(adapter, 12, 12)
    factors = problem.factors(0) | {"G": torch.zeros(GROUPS, 3, 12).double()}
    mean = {"A": factors["A"].unflatten(1, (3, 2)).mean(1), "B": factors["B"]}
    expected = LoRA(rank=2).update(problem.x, mean, FrozenLinear(problem.weights[0], problem.x))
    torch.testing.assert_close(problem.update(0, factors), expected)


def test_veras_matrices_are_shared_by_layers_of_one_shape() -> None:
    problem = Problem(VeRA(rank=7), 12, 18)
    assert problem.constants["A"].shape == (1, 7, 12)
    assert problem.constants["B"].shape == (1, 18, 7)


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name != "peft"])
def test_updates_of_units_have_a_size_near_one(name: str) -> None:
    """A prior scale means the same for every adapter, whatever its rank and width."""
    problem = Problem(ADAPTERS[name](), 384, 384, moved=False)
    for own, factor in problem.adapter.factors(384, 384).items():
        if factor.starts_at_zero:
            problem.values[own] = torch.randn_like(problem.values[own]) * factor.unit
    size = problem.update(0).pow(2).mean().sqrt().item()
    assert 0.2 < size < 4, size  # LoRA-XS is what a few singular vectors carry


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rank=0), "LoRA rank must be at least 1, not 0"),
        (lambda: HydraLoRA(experts=0), "HydraLoRA experts must be at least 1"),
        (lambda: MASA(number=0), "MASA number must be at least 1"),
        (lambda: MASA(group=-1), "MASA group must be at least 1"),
        (lambda: MTLLoRA(temperature=0), "temperature"),
        (lambda: VeRA(start=math.nan), "VeRA start"),
        (lambda: LoRA(rank_stabilized=True), "needs an alpha"),
        (lambda: DoRA(start=LoRAStart.PISSA), "PiSSA is a start of LoRA"),
        (lambda: Problem(LoRAXS(rank=13), 12, 18), "at most rank 12 in a layer of 12 to 18"),
        (lambda: Problem(LoRA(13, start=LoRAStart.PISSA), 18, 12), "at most rank 12"),
        (lambda: Problem(LoRA(13, start=LoRAStart.ORTHOGONAL), 12, 18), "at most rank 12"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
