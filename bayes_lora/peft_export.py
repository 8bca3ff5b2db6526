"""A posterior's mean, or a draw, as an ordinary PEFT checkpoint; its scales travel beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from bayes_lora.adapters import DoRA, LoRA, LoRAStart
from bayes_lora.backbone import Backbone, BayesianAdapter, FactorKey
from bayes_lora.backbone.peft_loading import the_library
from bayes_lora.errors import UnsupportedError
from bayes_lora.files import atomic_folder
from bayes_lora.guides import GUIDES
from bayes_lora.merging import one_draw
from bayes_lora.model import HEAD
from bayes_lora.named import name_of
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import check_free
from bayes_lora.scorers import LetterLikelihood, Likelihood

WEIGHTS = "adapter_model.safetensors"
SCALES, HEAD_FILE, ABOUT = "posterior_scales.safetensors", "head.safetensors", "bayes_lora.json"
PREFIX = "base_model.model."  # of PEFT's names
# Of LoRA's and DoRA's factors, as PEFT saves them.
NAMES = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


def export_peft(
    posterior: Posterior, folder: str | Path, *, draw: int | None = None, seed: int = 0
) -> None:
    """Write a checkpoint that plain ``peft`` loads, all of it or nothing.

    Beside PEFT's two files are the standard deviations of its tensors (of a draw's as well),
    under the same names; the scorer's own weights; and what all of it is.

    Args:
        posterior: Of our LoRA or DoRA, or of a PEFT model.
        folder: A new folder.
        draw: Which draw to write; None for the posterior mean.
        seed: Of the draws.

    Raises:
        ConfigError: A negative draw, or a folder that cannot be written.
        RunFolderError: The folder is there and not empty.
        UnsupportedError: PEFT has no such adapter; merge the run instead.
    """
    folder = Path(folder)
    check_free(folder)
    values = {name: value[0] for name, value in one_draw(posterior, draw, seed).items()}
    with atomic_folder(folder) as unfinished:
        if isinstance(posterior.model.backbone, BayesianAdapter):
            scales = _write_peft_model(posterior, values, unfinished)
        else:
            scales = _write_own(posterior, values, unfinished)
        _save(scales, unfinished / SCALES)
        head = {n.split(".", 1)[1]: v for n, v in values.items() if n.startswith(f"{HEAD}.")}
        _save(head, unfinished / HEAD_FILE)
        about = {
            "guide": name_of(posterior.config.guide, GUIDES),
            "draw": draw,
            "seed": seed,
            "labels": posterior.config.label_sets,
        }
        (unfinished / ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def _write_peft_model(posterior: Posterior, values: Mapping[str, Tensor], folder: Path) -> Any:
    """Write a PEFT model with these values; PEFT's own code knows how."""
    backbone = posterior.model.backbone
    assert isinstance(backbone, BayesianAdapter)
    scales = {}
    with backbone.holding(_by_key(posterior, values)):
        backbone.save_peft(folder)
    for layer, value in backbone.tensors(_by_key(posterior, posterior.guide.stddev())).items():
        scales[layer.replace(f".{backbone.peft_model.active_adapter}", "")] = value
    return scales


def _write_own(posterior: Posterior, values: Mapping[str, Tensor], folder: Path) -> Any:
    """Write our LoRA or DoRA as PEFT's."""
    adapter, backbone = _exported(posterior), posterior.model.backbone
    names = _names(backbone, language_model=_scores_tokens(posterior))
    pissa = adapter.start is LoRAStart.PISSA
    rank = adapter.rank * (2 if pissa else 1)
    alpha: Any = adapter.scale * (rank**0.5 if adapter.rank_stabilized else rank)
    the_library().LoraConfig(
        r=rank,
        lora_alpha=alpha,  # a float will do
        use_rslora=adapter.rank_stabilized,
        use_dora=isinstance(adapter, DoRA),
        target_modules=sorted(names.values()),
        base_model_name_or_path=backbone.model.name_or_path,
        task_type=_task_type(posterior),
    ).save_pretrained(str(folder))
    factors = posterior.model.factors(
        {name: value.unsqueeze(0) for name, value in values.items()}, posterior.model.adapters
    )
    _save(_as_peft(backbone, names, factors), folder / WEIGHTS)
    scales = {
        key: value.unsqueeze(0)
        for key, value in _by_key(posterior, posterior.guide.stddev()).items()
    }
    return _as_peft(backbone, names, scales)


def _exported(posterior: Posterior) -> LoRA:
    """Return the one adapter that everybody shares, if PEFT has it."""
    adapter = posterior.config.shared_adapter
    if isinstance(adapter, LoRA) and type(adapter) in (LoRA, DoRA):
        return adapter
    kinds = ", ".join(type(effect.adapter).__name__ for effect in posterior.config.effects)
    raise UnsupportedError(
        f"PEFT has LoRA and DoRA for all rows alike, and this run has {kinds or 'no adapter'}: "
        "merge a draw into the model instead (--merged)."
    )


def _names(backbone: Backbone, *, language_model: bool) -> dict[str, str]:
    """Give each adapted layer's name in the model that a PEFT user would load."""
    root = backbone.language_model if language_model else backbone.model
    assert root is not None
    prefix = next(name for name, module in root.named_modules() if module is backbone.model)
    layers = [layer for group in backbone.groups for layer in group.layers]
    return {layer: f"{prefix}.{layer}" if prefix else layer for layer in layers}


def _as_peft(
    backbone: Backbone,
    names: Mapping[str, str],
    factors: Mapping[FactorKey, Tensor],
) -> dict[str, Tensor]:
    """Name the layers' tensors as PEFT does.

    Args:
        backbone: Has the layers.
        names: Of these, as ``_names`` gives them.
        factors: Values ``[1, layers, *shape]``. With the adapter's constants among them, what
            PiSSA started at is taken away, and DoRA's magnitudes are no shares of a norm any more.
    """
    found = {}
    for group in backbone.groups:
        own = {key[2]: value[0] for key, value in factors.items() if key[1] == group.name}
        if "A0" in own:
            own["A"] = torch.cat([own["A"], own["A0"]], dim=1)
            own["B"] = torch.cat([own["B"], -own["B0"]], dim=2)
        if "norm" in own:
            own["magnitude"] = own["norm"] * (1 + own["magnitude"])
        for factor, name in NAMES.items():
            for layer, value in zip(group.layers, own.get(factor, ()), strict=factor in own):
                found[f"{PREFIX}{names[layer]}.{name}"] = value
    return found


def _by_key(posterior: Posterior, values: Mapping[str, Tensor]) -> dict[FactorKey, Tensor]:
    sites = posterior.model.sites
    return {key: values[n] for n, site in sites.items() if (key := site.key) and n in values}


def _scores_tokens(posterior: Posterior) -> bool:
    return isinstance(posterior.config.scorer, Likelihood | LetterLikelihood)


def _task_type(posterior: Posterior) -> str:
    if not _scores_tokens(posterior):
        return "FEATURE_EXTRACTION"
    seq2seq = posterior.model.backbone.model.config.is_encoder_decoder
    return "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM"


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    if tensors:
        own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        safetensors.torch.save_file(own, path, metadata={"format": "pt"})
