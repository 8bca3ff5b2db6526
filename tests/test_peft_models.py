"""A posterior over any PEFT model: as PEFT computes it, drawn, fitted, saved and exported."""

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers
from test_conformance import EXAMPLES, TASK
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from bayes_lora import FitSettings, Posterior, fit, load_backbone, meta_fit
from bayes_lora.adapters import DoRA, LoRA, LoRAStart
from bayes_lora.backbone import Backbone, BayesianAdapter
from bayes_lora.errors import ConfigError, UnsupportedError
from bayes_lora.guides import GUIDES, SVGD, DeepEnsemble
from bayes_lora.peft_export import export_peft

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]

AT = {"target_modules": ["query", "value"]}
# To add a tuner: a line here.
TUNERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(r=4, **AT),
    "lora-rank-stabilized": lambda: peft.LoraConfig(r=4, use_rslora=True, lora_alpha=6, **AT),
    "lora-bias": lambda: peft.LoraConfig(r=4, bias="all", **AT),
    "lora-regex": lambda: peft.LoraConfig(r=4, target_modules=r".*\.(query|value)"),
    "lora-rank-pattern": lambda: peft.LoraConfig(
        r=4, rank_pattern={"layer.0.attention.self.query": 2}, alpha_pattern={"value": 3}, **AT
    ),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, **AT),
    "loha": lambda: peft.LoHaConfig(r=4, **AT),
    "lokr": lambda: peft.LoKrConfig(r=4, **AT),
    "vera": lambda: peft.VeraConfig(r=16, **AT),
    "pvera": lambda: peft.PveraConfig(r=16, **AT),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=20, **AT),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, **AT),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, **AT),
    "hra": lambda: peft.HRAConfig(r=4, **AT),
    "miss": lambda: peft.MissConfig(r=4, **AT),
    "ia3": lambda: peft.IA3Config(
        target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]
    ),
    "c3a": lambda: peft.C3AConfig(block_size=4, **AT),
    "randlora": lambda: peft.RandLoraConfig(r=4, **AT),
    "delora": lambda: peft.DeloraConfig(r=4, **AT),
    "gralora": lambda: peft.GraloraConfig(r=4, **AT),
    "hira": lambda: peft.HiraConfig(r=4, **AT),
    "vblora": lambda: peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=4, topk=2, **AT),
    "ln-tuning": lambda: peft.LNTuningConfig(target_modules=["LayerNorm"]),
    "prompt-tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=4),
}
QUICK = FitSettings(max_steps=6, batch_size=8, learning_rate=0.02, seed=1)
START = FitSettings(max_steps=0)
LINEARISABLE = ("mean-field", "low-rank", "laplace", "laplace-diagonal", "blob")


def moved(model: Any, config: peft.PeftConfig, task_type: str) -> peft.PeftModel:
    """A PEFT model as somebody trained it: nothing of it where PEFT starts."""
    config.task_type = task_type
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.05 * noise.to(parameter))
    return adapted.eval()


@pytest.fixture
def encoder(tiny_folders: Path) -> Path:
    return tiny_folders / "tiny-encoder"


def tokens(folder: Path) -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = [example.input for example in EXAMPLES]
    encoded = tokenizer(texts, return_tensors="pt", padding=True)
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}


REAL = ("lora", "dora", "ia3", "prompt-tuning")  # on MiniLM as well


@pytest.mark.parametrize("name", [*TUNERS, *(f"{name} minilm" for name in REAL)])
def test_every_tuner(name: str, encoder: Path, minilm: Backbone, tmp_path: Path) -> None:
    """At PEFT's values it is PEFT; its draws vary; all sites learn; it is saved and loaded."""
    name, _, real = name.partition(" ")
    encoder = Path(minilm.model.name_or_path) if real else encoder
    adapted = moved(AutoModel.from_pretrained(encoder), TUNERS[name](), "FEATURE_EXTRACTION")
    inputs = tokens(encoder)
    with torch.no_grad():
        expected = adapted(**inputs).last_hidden_state[:, -inputs["input_ids"].shape[1] :]
    backbone = BayesianAdapter.from_peft(adapted)
    start = fit([TASK], backbone, settings=START)
    assert sum(site.start.numel() for site in start.model.sites.values() if site.key) == sum(
        parameter.numel() for parameter in backbone._drawn.parameters.values()
    )
    with torch.no_grad(), start.model.under(start.draw(0)):
        torch.testing.assert_close(backbone.states(inputs), expected, atol=1e-6, rtol=0)
    posterior = fit([TASK], backbone, settings=QUICK)
    for site, own in posterior.model.sites.items():
        if "pooler" in site:
            continue  # with bias="all" it is trainable, and the class head does not look at it
        assert (posterior.guide.mean()[site] - own.start).abs().max() > 0, f"{site} never moved"
    before = posterior.predict(EXAMPLES, draws=3, keep_draws=True).per_draw
    assert before.std(0).max() > 0
    posterior.save_pretrained(tmp_path / "run")
    after = Posterior.from_pretrained(tmp_path / "run").predict(EXAMPLES, draws=3, keep_draws=True)
    assert np.array_equal(before, after.per_draw)


@pytest.mark.parametrize("guide", [name for name in GUIDES if name != "nuts"])
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_every_guide_over_a_checkpoint(
    name: str, guide: str, encoder: Path, tmp_path: Path
) -> None:
    adapted = moved(AutoModel.from_pretrained(encoder), TUNERS[name](), "FEATURE_EXTRACTION")
    family = {"ensemble": DeepEnsemble(3), "svgd": SVGD(3)}.get(guide, GUIDES[guide]())
    posterior = fit([TASK], BayesianAdapter.from_peft(adapted), guide=family, settings=QUICK)
    posterior.save_pretrained(tmp_path / "run")
    loaded = Posterior.from_pretrained(tmp_path / "run")
    for linearised in {False, guide in LINEARISABLE}:
        before, after = (
            own.predict(EXAMPLES, draws=3, keep_draws=True, linearised=linearised).per_draw
            for own in (posterior, loaded)
        )
        assert (before.std(0).max() > 0) == (guide not in ("map", "mle"))
        assert np.array_equal(before, after)


@pytest.mark.parametrize("guide", ["laplace", "laplace-diagonal", "training-free"])
def test_a_posterior_around_what_somebody_else_trained(guide: str, encoder: Path) -> None:
    """Nothing is trained: the checkpoint is the mean, with a spread around it."""
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    adapted = moved(base, TUNERS["lora"](), "SEQ_CLS")
    with torch.no_grad():
        expected = adapted(**tokens(encoder)).logits.softmax(-1)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    posterior = fit(
        [TASK], BayesianAdapter.from_peft(adapted, tokenizer), guide=guide, settings=START
    )
    mean = posterior.predict(EXAMPLES, draws=0).probabilities
    np.testing.assert_allclose(mean, expected.numpy(), atol=1e-6)
    drawn = posterior.predict(EXAMPLES, draws=4, keep_draws=True).per_draw
    assert drawn.std(0).max() > 1e-3


@pytest.mark.parametrize(
    "name", [name for name in TUNERS if name.startswith("lora") or name == "dora"]
)
def test_peft_to_ours_to_peft(name: str, encoder: Path, tmp_path: Path) -> None:
    """A classifier with a head that PEFT trained (modules_to_save), through files."""
    config = TUNERS[name]()
    base = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    adapted = moved(base, config, "SEQ_CLS")  # with modules_to_save: the classifier
    inputs = tokens(encoder)
    with torch.no_grad():
        expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "theirs")
    torch.manual_seed(5)  # a base model without a classifier has another random one each time
    again = AutoModelForSequenceClassification.from_pretrained(encoder)
    loaded = peft.PeftModel.from_pretrained(again, tmp_path / "theirs", is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    posterior = fit([TASK], BayesianAdapter.from_peft(loaded, tokenizer), settings=START)
    assert type(posterior.config.scorer).__name__ == "ModelHead"
    ours = posterior.predict(EXAMPLES, draws=0).probabilities
    np.testing.assert_allclose(ours, expected.softmax(-1).numpy(), atol=1e-6)
    export_peft(posterior, tmp_path / "ours")
    exported = of_peft("AutoModelForSequenceClassification", encoder, tmp_path / "ours", inputs)
    torch.testing.assert_close(exported, expected, atol=1e-6, rtol=0)
    posterior.save_pretrained(tmp_path / "run")
    reloaded = Posterior.from_pretrained(tmp_path / "run")
    assert np.array_equal(reloaded.predict(EXAMPLES, draws=0).probabilities, ours)


def of_peft(kind: str, base: Path, folder: Path, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What plain PEFT makes of a checkpoint."""
    model = peft.PeftModel.from_pretrained(
        getattr(transformers, kind).from_pretrained(base), folder
    )
    with torch.no_grad():
        out = model.eval()(**inputs)
    return out.logits if "logits" in out else out.last_hidden_state


def test_a_checkpoint_of_ours_loads_where_bayes_lora_is_not(encoder: Path, tmp_path: Path) -> None:
    posterior = fit([TASK], load_backbone(str(encoder)), adapter=LoRA(rank=2), settings=QUICK)
    export_peft(posterior, tmp_path / "ours")
    inputs = tokens(encoder)
    safetensors.torch.save_file(inputs, tmp_path / "inputs.safetensors")
    script = f"""
import sys
sys.modules["bayes_lora"] = None
import peft, torch, transformers
from safetensors.torch import load_file, save_file
base = transformers.AutoModel.from_pretrained({str(encoder)!r})
model = peft.PeftModel.from_pretrained(base, {str(tmp_path / "ours")!r}).eval()
with torch.no_grad():
    states = model(**load_file({str(tmp_path / "inputs.safetensors")!r})).last_hidden_state
save_file(dict(states=states), {str(tmp_path / "out.safetensors")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    states = safetensors.torch.load_file(tmp_path / "out.safetensors")["states"]
    with torch.no_grad(), posterior.model.under(posterior.draw(0)):
        expected = posterior.model.backbone.states(inputs)
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=0)


ADAPTERS = {
    "lora": LoRA(rank=2),
    "lora-rank-stabilized": LoRA(rank=4, alpha=3.0, rank_stabilized=True),
    "lora-pissa": LoRA(rank=2, start=LoRAStart.PISSA),
    "dora": DoRA(rank=2),
}


@pytest.mark.parametrize("draw", [None, 1])
@pytest.mark.parametrize("name", [*ADAPTERS, "lora minilm", "dora minilm"])
def test_our_adapters_as_peft_checkpoints(
    name: str, draw: int | None, encoder: Path, minilm: Backbone, tmp_path: Path
) -> None:
    name, _, real = name.partition(" ")
    encoder = Path(minilm.model.name_or_path) if real else encoder
    posterior = fit([TASK], load_backbone(str(encoder)), adapter=ADAPTERS[name], settings=QUICK)
    export_peft(posterior, tmp_path / "ours", draw=draw, seed=5)
    inputs = tokens(encoder)
    values = posterior.draw(0) if draw is None else posterior.draw(2, seed=5)
    own = {site: value[-1:] for site, value in values.items()}
    with torch.no_grad(), posterior.model.under(own):
        expected = posterior.model.backbone.states(inputs)
    states = of_peft("AutoModel", encoder, tmp_path / "ours", inputs)
    # MiniLM's six layers add up the rounding of float32: DoRA's norms are not computed alike.
    torch.testing.assert_close(states, expected, atol=1e-5 if real else 2e-6, rtol=0)


@pytest.mark.parametrize("merge", [False, True])
def test_a_language_model_of_ours_as_a_peft_checkpoint(
    merge: bool, tiny_folders: Path, tmp_path: Path
) -> None:
    """And merged by PEFT, into one model to serve."""
    folder = tiny_folders / "tiny-decoder"
    posterior = fit([TASK], load_backbone(str(folder)), scorer="likelihood", settings=QUICK)
    export_peft(posterior, tmp_path / "ours")
    model: Any = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(folder), tmp_path / "ours"
    )
    assert model.active_peft_config.task_type == "CAUSAL_LM"
    model = model.merge_and_unload() if merge else model
    inputs = tokens(folder)
    with torch.no_grad(), posterior.model.under(posterior.draw(0)):
        expected = posterior.model.backbone.token_logits(inputs, inputs["attention_mask"].bool())
    with torch.no_grad():
        logits = model(**inputs).logits[inputs["attention_mask"].bool()]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", ["tiny-decoder", "stories260K"])
@pytest.mark.parametrize("name", ["lora", "prompt-tuning"])
def test_language_models_of_peft_score_options(
    name: str, model: str, tiny_folders: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As the pretrained model does with the adapter merged, or with the prompt in front."""
    folder = tiny_folders / model
    if model != "tiny-decoder":
        folder = request.getfixturevalue("data_folder") / "causal_lm" / model
    configs = {
        "lora": peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        "prompt-tuning": peft.PromptTuningConfig(num_virtual_tokens=3),
    }
    adapted = moved(AutoModelForCausalLM.from_pretrained(folder), configs[name], "CAUSAL_LM")
    inputs = tokens(folder)
    needed = inputs["attention_mask"].bool()
    with torch.no_grad():
        logits = copy.deepcopy(adapted)(**inputs).logits
    expected = logits[:, -needed.shape[1] :][needed]
    backbone = BayesianAdapter.from_peft(adapted)
    posterior = fit([TASK], backbone, scorer="likelihood", settings=QUICK)
    start = {name: site.start[None] for name, site in posterior.model.sites.items()}
    with torch.no_grad(), posterior.model.under(start):
        torch.testing.assert_close(
            backbone.token_logits(inputs, needed), expected, atol=1e-5, rtol=0
        )
    per_draw = posterior.predict(EXAMPLES, draws=3, keep_draws=True).per_draw
    assert per_draw.std(0).max() > 0
    posterior.save_pretrained(tmp_path / "run")
    loaded = Posterior.from_pretrained(tmp_path / "run")
    again = loaded.predict(EXAMPLES, draws=3, keep_draws=True).per_draw
    assert np.array_equal(per_draw, again)
    if name == "prompt-tuning":
        with pytest.raises(UnsupportedError, match="use the scorer likelihood"):
            fit([TASK], backbone, scorer="class-head", settings=QUICK)


def test_rows_use_their_draws_whatever_the_order(encoder: Path) -> None:
    """Several draws in one call, aligned or by entries, are one pass for each draw."""
    adapted = moved(AutoModel.from_pretrained(encoder), TUNERS["lora"](), "FEATURE_EXTRACTION")
    backbone = BayesianAdapter.from_peft(adapted)
    posterior = fit([TASK], backbone, settings=QUICK)
    draws, inputs = posterior.draw(2, seed=4), tokens(encoder)
    separate = []
    with torch.no_grad():
        for i in range(2):
            with posterior.model.under({n: v[i : i + 1] for n, v in draws.items()}):
                separate.append(backbone.states(inputs))
        half = len(EXAMPLES) // 2
        with posterior.model.under(draws):
            aligned = backbone.states(inputs)
            entries = torch.tensor([1, 0] * half)
            with backbone.rows_using(entries, None):
                mixed = backbone.states(inputs)
    expected = torch.cat([separate[0][:half], separate[1][half:]])
    torch.testing.assert_close(aligned, expected, atol=1e-6, rtol=0)
    expected = torch.stack([separate[draw][row] for row, draw in enumerate(entries.tolist())])
    torch.testing.assert_close(mixed, expected, atol=1e-6, rtol=0)


def test_what_cannot_be_drawn_is_refused(encoder: Path, tmp_path: Path) -> None:
    def adapted() -> Any:
        return moved(AutoModel.from_pretrained(encoder), TUNERS["lora"](), "FEATURE_EXTRACTION")

    frozen = adapted()
    frozen.requires_grad_(False)
    with pytest.raises(ConfigError, match="is_trainable=True"):
        BayesianAdapter.from_peft(frozen)
    merged = adapted()
    merged.merge_adapter()
    with pytest.raises(ConfigError, match="unmerge_adapter"):
        BayesianAdapter.from_peft(merged)
    backbone = BayesianAdapter.from_peft(adapted())
    with pytest.raises(UnsupportedError, match="gradient checkpointing"):
        fit([TASK], backbone, settings=FitSettings(max_steps=1, checkpointing=True))
    with pytest.raises(ConfigError, match="PEFT's adapter already"):
        fit([TASK], backbone, adapter=LoRA(), settings=START)
    with pytest.raises(UnsupportedError, match="model-head"):
        fit([TASK], backbone, scorer="model-head", settings=START)
    with pytest.raises(UnsupportedError, match="meta-fit the base model"):
        meta_fit([TASK, replace(TASK, name="other")], backbone)
    config = peft.PromptEncoderConfig(num_virtual_tokens=2, encoder_hidden_size=4)
    p_tuned = moved(AutoModel.from_pretrained(encoder), config, "FEATURE_EXTRACTION")
    with pytest.raises(UnsupportedError, match="learns a network that makes its prompts"):
        BayesianAdapter.from_peft(p_tuned)
    posterior = fit([TASK], backbone, settings=START)
    with posterior.model.under(posterior.draw(3)), pytest.raises(ConfigError, match="3 draws"):
        backbone.states({key: value[:4] for key, value in tokens(encoder).items()})
    hidden = adapted()
    layer = hidden.base_model.model.encoder.layer[0].attention.self.query
    kept = layer.lora_A["default"].weight  # as a tuner may keep a tensor outside its modules
    layer.register_forward_hook(lambda *own: own[-1] + kept.sum())
    with pytest.raises(
        UnsupportedError, match=r"LORA keeps '.*layer\.0\..*lora_A.*' where no draw"
    ):
        BayesianAdapter.from_peft(hidden)
    ours = fit([TASK], load_backbone(str(encoder)), adapter=LoRA(rank=1), settings=START)
    with pytest.raises(ConfigError, match="number -1"):
        export_peft(ours, tmp_path / "out", draw=-1)
    assert not any(tmp_path.iterdir())
