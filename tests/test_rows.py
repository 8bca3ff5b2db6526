"""Rows of one batch use different weights, and each as if it were alone."""

import copy

import pytest
import torch
from tiny_backbones import tiny_encoder
from torch import nn

from bayes_lora.adapters import LoRA
from bayes_lora.backbone import Backbone
from bayes_lora.backbone.adapted_linear import AdaptedLinear
from bayes_lora.errors import ConfigError, UnsupportedError

LENGTHS = [9, 4, 7, 9, 1, 5]
ADAPTERS = {"population": LoRA(rank=3)}


def _inputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(1, 99, (len(LENGTHS), max(LENGTHS)))
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def _factors(backbone: Backbone, rows: int) -> dict[tuple[str, str, str], torch.Tensor]:
    torch.manual_seed(2)
    return {
        ("population", group.name, name): torch.randn(
            rows, len(group.layers), *factor.shape, dtype=torch.float64, requires_grad=True
        )
        for group in backbone.groups
        for name, factor in ADAPTERS["population"].factors(group.d_in, group.d_out).items()
    }


def _plain_merged(backbone: Backbone, factors: dict, row: int) -> nn.Module:
    """The pretrained model with one row's update added to its weights: no adapter code at all."""
    model = copy.deepcopy(backbone.model)
    for group in backbone.groups:
        for layer, name in enumerate(group.layers):
            a, b = (factors["population", group.name, f][row, layer].detach() for f in "AB")
            parent = model.get_submodule(name.rpartition(".")[0])
            base = model.get_submodule(name).base
            base.weight.add_(ADAPTERS["population"].scale * b @ a)
            setattr(parent, name.rpartition(".")[2], base)
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    return model


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_rows_equal_separate_models_with_merged_weights(tiny: Backbone, rows: int) -> None:
    inputs, factors = _inputs(), _factors(tiny, rows)
    states = tiny(inputs, factors, ADAPTERS)
    share = len(LENGTHS) // rows
    with torch.no_grad():
        for row, length in enumerate(LENGTHS):
            alone = {key: value[row : row + 1, :length] for key, value in inputs.items()}
            expected = _plain_merged(tiny, factors, row // share)(**alone).last_hidden_state
            torch.testing.assert_close(states[row, :length], expected[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 6])
def test_gradients_equal_those_of_separate_runs(
    tiny: Backbone, rows: int, checkpointing: bool
) -> None:
    """Also under gradient checkpointing, which must recompute with the sampled weights."""
    inputs, factors = _inputs(), _factors(tiny, rows)
    weights = torch.randn(len(LENGTHS), max(LENGTHS), tiny.hidden_size, dtype=torch.float64)
    weights *= inputs["attention_mask"].unsqueeze(-1)
    share = len(LENGTHS) // rows
    separate = []
    for row in range(rows):
        part = slice(row * share, (row + 1) * share)
        own = {key: value[row : row + 1] for key, value in factors.items()}
        alone = {key: value[part] for key, value in inputs.items()}
        separate.append((tiny(alone, own, ADAPTERS) * weights[part]).sum())
    expected = torch.autograd.grad(sum(separate), list(factors.values()))
    if checkpointing:
        tiny.enable_gradient_checkpointing()
        tiny.train()
        calls = _count_recomputations(tiny)
    together = (tiny(inputs, factors, ADAPTERS) * weights).sum()
    actual = torch.autograd.grad(together, list(factors.values()))
    for ours, truth in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-10, rtol=1e-10)
    if checkpointing:
        assert min(calls.values()) == 2, "checkpointing recomputed nothing: the test tests nothing"


def _count_recomputations(backbone: Backbone) -> dict[str, int]:
    calls = {name: 0 for group in backbone.groups for name in group.layers}

    def count(name: str) -> None:
        calls[name] += 1

    for name in calls:
        backbone.model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: count(name)
        )
    return calls


def test_checkpointing_survives_a_second_forward_before_the_backward(tiny: Backbone) -> None:
    """Recomputation uses the weights of its own forward pass, not those of the last one."""
    inputs, first = _inputs(), _factors(tiny, 1)
    other = {key: torch.ones_like(value) for key, value in first.items()}
    expected = torch.autograd.grad(tiny(inputs, first, ADAPTERS).pow(2).sum(), list(first.values()))
    tiny.enable_gradient_checkpointing()
    tiny.train()
    loss = tiny(inputs, first, ADAPTERS).pow(2).sum()
    tiny(inputs, other, ADAPTERS)
    for ours, truth in zip(torch.autograd.grad(loss, list(first.values())), expected, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-10, rtol=1e-10)


def test_without_factors_the_backbone_is_the_pretrained_one(tiny: Backbone) -> None:
    inputs = _inputs()
    plain = copy.deepcopy(tiny.model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, AdaptedLinear):
            parent = plain.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.base)
    assert torch.equal(tiny(inputs, {}, {}), plain(**inputs).last_hidden_state)


def test_the_base_layer_is_wrapped_and_not_copied(tiny: Backbone) -> None:
    layer = tiny.model.get_submodule(tiny.groups[0].layers[0])
    pointer = layer.base.weight.data_ptr()
    assert pointer in {value.data_ptr() for value in tiny.model.state_dict().values()}
    assert not any(value.requires_grad for value in tiny.model.parameters())


class Int8Linear(nn.Module):
    """A linear layer whose weight is kept in 8 bits and a scale for each output."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def test_a_quantised_base_layer_is_adapted_like_any_other() -> None:
    backbone = tiny_encoder()
    model = copy.deepcopy(backbone.model)
    for name in backbone.groups[0].layers + backbone.groups[1].layers:
        parent, child = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        setattr(parent, child, Int8Linear(model.get_submodule(name).base))
    quantised = Backbone(model, backbone.tokenizer, name="int8", fingerprint="")
    factors = _factors(quantised, 3)
    states = quantised(_inputs(), factors, ADAPTERS)
    alone = {key: value[1:2] for key, value in factors.items()}
    inputs = {key: value[2:4] for key, value in _inputs().items()}
    torch.testing.assert_close(quantised(inputs, alone, ADAPTERS), states[2:4], atol=1e-10, rtol=0)
    gradients = torch.autograd.grad(states.sum(), list(factors.values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    exact = backbone(_inputs(), factors, ADAPTERS)
    assert 0 < (states - exact).abs().max() < 0.2


class TokensFirst(nn.Module):
    """Transposes to tokens first before its projection, as Longformer does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.config = model.config
        self.query = nn.Linear(16, 16)
        self.embeddings = model.embeddings

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        states = self.query(self.embeddings(input_ids).transpose(0, 1)).transpose(0, 1)
        return type("Output", (), {"last_hidden_state": states})


def test_a_backbone_whose_layers_do_not_see_rows_of_tokens_is_refused() -> None:
    encoder = tiny_encoder()
    model = TokensFirst(encoder.model).double()
    with pytest.raises(UnsupportedError, match="'query'"):
        Backbone(model, encoder.tokenizer, name="x", fingerprint="", targets=["query"])


def test_padding_goes_to_the_right_whatever_the_tokenizer_says() -> None:
    encoder = tiny_encoder()
    encoder.tokenizer.padding_side = "left"
    Backbone(
        copy.deepcopy(encoder.model), encoder.tokenizer, name="x", fingerprint="", targets=["base"]
    )
    assert encoder.tokenizer.padding_side == "right"


def test_rows_that_do_not_divide_the_batch_are_refused(tiny: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"4 sets .* 6 rows"):
        tiny(_inputs(), _factors(tiny, 4), ADAPTERS)


def test_training_mode_leaves_the_pretrained_dropout_off(tiny: Backbone) -> None:
    inputs, factors = _inputs(), _factors(tiny, 1)
    tiny.enable_gradient_checkpointing()
    tiny.train()
    torch.testing.assert_close(
        tiny(inputs, factors, ADAPTERS), tiny(inputs, factors, ADAPTERS), atol=0, rtol=0
    )


def test_adapter_dropout_acts_in_training_only(tiny: Backbone) -> None:
    inputs, factors = _inputs(), _factors(tiny, 1)
    adapters = {"population": LoRA(rank=3, dropout=0.5)}
    plain = tiny(inputs, factors, ADAPTERS)
    tiny.train()
    assert not torch.allclose(tiny(inputs, factors, adapters), plain)
    tiny.eval()
    assert torch.equal(tiny(inputs, factors, adapters), plain)
