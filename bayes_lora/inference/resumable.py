"""The state of an unfinished fit, in a folder from which the same fit goes on.

It is made of the Trainer's checkpoints: of weights, optimizer, schedule and random numbers, so that
a fit that was interrupted ends where it would have ended.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import Trainer

from bayes_lora.backbone import Backbone
from bayes_lora.errors import RunFolderError
from bayes_lora.files import atomic_file, atomic_text, check_writable
from bayes_lora.inference.running import StateFolder
from bayes_lora.run_config import PosteriorConfig, describe
from bayes_lora.scorers import LabelledRows

OWNER_FILE = "fit.json"  # says whose state it is
FINISHED_FILE = "finished.safetensors"  # a part's weights, when it is done


def claim(
    folder: Path, config: PosteriorConfig, backbone: Backbone, rows: Sequence[LabelledRows]
) -> None:
    """Make a folder a fit's, or check that it is.

    Args:
        folder: A new or empty folder, or one that this fit has begun to fill.
        config: Of the fit.
        backbone: Its backbone.
        rows: What it learns from, and what it stops early on.

    Raises:
        RunFolderError: The folder has another fit's state, or other things.
        ConfigError: Nothing can be written there.
    """
    check_writable(folder)
    asked = describe(config, backbone) | {"rows": _digest(rows)}
    asked = json.loads(json.dumps(asked))
    owner = folder / OWNER_FILE
    if not owner.exists():
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise RunFolderError(f"{folder} is not empty, and holds no fit's state: name another.")
        with atomic_text(owner) as file:
            json.dump(asked, file, indent=2)
        return
    differing = _differing(_read(owner), asked)
    if differing:
        raise RunFolderError(
            f"{folder} holds the state of another fit, which differs in: {', '.join(differing)}. "
            "Give the same flags and data, or another folder, or delete this one."
        )


def newest_checkpoint(folder: Path) -> str | None:
    """Find the Trainer's newest checkpoint that was written to its end."""
    # Its own state is what the Trainer writes last.
    found = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


def run_or_resume(trainer: Trainer, state: StateFolder) -> None:
    """Train from the newest checkpoint there is, or from the start; not what is done already."""
    finished = state.path / FINISHED_FILE
    module = trainer.model
    assert module is not None
    if finished.exists():
        module.load_state_dict(load_file(finished))
        return
    trainer.train(resume_from_checkpoint=newest_checkpoint(state.path))
    if state.kept:
        with atomic_file(finished) as unfinished:
            save_file({n: own.contiguous() for n, own in module.state_dict().items()}, unfinished)


def _digest(rows: Sequence[LabelledRows]) -> str:
    digest = hashlib.sha256()
    for own in rows:
        for row, label in own:
            digest.update(f"{row!r} {label}\n".encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _read(owner: Path) -> dict[str, Any]:
    try:
        found = json.loads(owner.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{owner} cannot be read ({error}): delete its folder.") from error
    return found if isinstance(found, dict) else {}


def _differing(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Name the settings that differ, one level deep: ``fit.batch_size``."""
    names = []
    for key in sorted(found.keys() | asked.keys()):
        one, other = found.get(key), asked.get(key)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            names += [f"{key}.{inner}" for inner in _differing(one, other)]
        else:
            names.append(key)
    return names
