"""One set of weights merged into the model is the model with the adapter."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_conformance import ADAPTERS, EXAMPLES, TASK
from transformers import GPT2Config, GPT2LMHeadModel

from bayes_lora import FitSettings, fit, load_backbone
from bayes_lora.adapters import LoRA
from bayes_lora.backbone.adapted_linear import AdaptedLinear
from bayes_lora.errors import UnsupportedError
from bayes_lora.inference.attributes import AttributeSettings
from bayes_lora.merging import merged

SETTINGS = FitSettings(max_steps=6, batch_size=8, learning_rate=0.1, seed=1)
GATED = ("hydra-lora", "masa")
MERGED = [name for name in ADAPTERS if name not in GATED]


@pytest.mark.parametrize("draw", [None, 1])
@pytest.mark.parametrize("name", MERGED)
def test_states_are_the_same(name: str, draw: int | None, tiny_folders: Path) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    posterior = fit([TASK], backbone, adapter=ADAPTERS[name], settings=SETTINGS)
    before = {n: p.clone() for n, p in backbone.model.named_parameters()}
    model = merged(posterior, draw, seed=5)
    assert not any(isinstance(module, AdaptedLinear) for module in model.modules())
    inputs = backbone.collate([list(range(5, 12)), [7, 8]])
    values = posterior.draw(0) if draw is None else posterior.draw(2, seed=5)
    with torch.no_grad(), posterior.model.under({n: v[-1:] for n, v in values.items()}):
        expected = backbone.states(inputs)
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
        untouched = backbone.states(inputs)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    assert (untouched - expected).abs().max() > 1e-3, "hardly an update: the test tests nothing"
    assert all(torch.equal(before[n], p) for n, p in backbone.model.named_parameters())


@pytest.mark.parametrize("kind", ["tiny-decoder", "gpt2"])
def test_a_merged_language_model_is_saved_and_loaded(
    kind: str, tiny_folders: Path, tmp_path: Path
) -> None:
    """GPT-2's layers keep their weights the other way round."""
    folder = tiny_folders / kind
    if kind == "gpt2":
        folder = tmp_path / kind
        config = GPT2Config(vocab_size=31000, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        GPT2LMHeadModel(config).save_pretrained(folder)
        load_backbone(str(tiny_folders / "tiny-decoder")).tokenizer.save_pretrained(folder)
    backbone = load_backbone(str(folder))
    posterior = fit([TASK], backbone, scorer="likelihood", settings=SETTINGS)
    merged(posterior).save_pretrained(tmp_path / "merged")
    backbone.tokenizer.save_pretrained(tmp_path / "merged")
    served = load_backbone(str(tmp_path / "merged"))
    inputs = backbone.collate([list(range(5, 12)), [7, 8]])
    needed = inputs["attention_mask"].bool()
    with torch.no_grad(), posterior.model.under(posterior.draw(0)):
        expected = backbone.token_logits(inputs, needed)
    with torch.no_grad():
        torch.testing.assert_close(served.token_logits(inputs, needed), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", GATED)
def test_gates_cannot_be_merged(name: str, tiny_folders: Path) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    posterior = fit([TASK], backbone, adapter=ADAPTERS[name], settings=SETTINGS)
    with pytest.raises(UnsupportedError, match="a gate"):
        merged(posterior)


def test_levels_cannot_be_merged(tiny_folders: Path) -> None:
    examples = [replace(own, attributes={"user": str(i % 3)}) for i, own in enumerate(EXAMPLES)]
    task = replace(TASK, examples=tuple(examples))
    posterior = fit(
        [task],
        load_backbone(str(tiny_folders / "tiny-encoder")),
        guide="mle",
        adapter=LoRA(rank=1),
        settings=SETTINGS,
        attributes=AttributeSettings(("user",)),
    )
    with pytest.raises(UnsupportedError, match="Levels have weights of their own"):
        merged(posterior)
