"""PEFT checkpoints from disk: onto their base models, and without pickle."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

from bayes_lora.backbone.loading import LOADING_ERRORS, source_of
from bayes_lora.backbone.peft_model import BayesianAdapter
from bayes_lora.backbone.precision import warn_if_slow
from bayes_lora.errors import ConfigError, UnsupportedError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
# By a checkpoint's task; without one, a model without a head.
CLASSES: dict[str | None, str] = {
    None: "AutoModel",
    "FEATURE_EXTRACTION": "AutoModel",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
}


def load_peft(
    folder: str | Path,
    base: str | None = None,
    kind: str | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    max_length: int = 256,
) -> BayesianAdapter:
    """Load a PEFT checkpoint onto its base model.

    Args:
        folder: The checkpoint: adapter_config.json and adapter_model.safetensors.
        base: The base model's name or path; None for the one that the checkpoint names.
        kind: The name of its class in ``transformers``; None for the checkpoint's task's.
        dtype: Of the base model's weights.
        max_length: Longest input in tokens.

    Raises:
        ConfigError: There is no such checkpoint, or its base model cannot be loaded.
        UnsupportedError: It is for a task that has no scorer.

    Warns:
        SpeedWarning: The dtype is slow on this machine.
    """
    warn_if_slow(dtype)
    folder, peft = Path(folder), the_library()
    config = _config(peft, folder)
    base = source_of(base or config.base_model_name_or_path)
    make = getattr(transformers, kind or _class_of(config))
    try:
        model = make.from_pretrained(
            base, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        adapted = peft.PeftModel.from_pretrained(
            model, str(folder), is_trainable=not config.is_prompt_learning
        )
        own = any((folder / name).exists() for name in TOKENIZER_FILES)
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder) if own else base, trust_remote_code=False
        )
    except LOADING_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"The PEFT checkpoint {str(folder)!r} cannot be loaded onto {base!r}: {reason} "
            "Give its base model's folder or hub name with --model."
        ) from error
    return BayesianAdapter.from_peft(adapted, tokenizer, max_length=max_length)


def the_library() -> Any:
    """Import PEFT, which is needed for its models and checkpoints alone.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(
            "PEFT's models and checkpoints need the library peft; pip install 'bayes-lora[peft]'"
        ) from None
    return peft


def _config(peft: Any, folder: Path) -> Any:
    """Read a checkpoint's configuration.

    Raises:
        ConfigError: There is none, or no weights that can be read without pickle.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{str(folder)!r} holds no PEFT checkpoint that can be read: there is no {name} "
                "in it. Weights of other formats are not read, for they are pickles."
            )
    try:
        return peft.PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder / 'adapter_config.json'} cannot be read: {error}.") from error


def _class_of(config: Any) -> str:
    """Name the class in transformers that a checkpoint's task asks for."""
    task = config.task_type and str(getattr(config.task_type, "value", config.task_type))
    if task not in CLASSES:
        raise UnsupportedError(
            f"A PEFT checkpoint for {task} has no scorer here: those for "
            f"{', '.join(name for name in CLASSES if name)} have."
        )
    return CLASSES[task]
