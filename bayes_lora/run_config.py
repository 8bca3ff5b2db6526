"""What a run's folder says of itself: ``posterior.json``, read and written."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bayes_lora.backbone import Backbone
from bayes_lora.effects import Effect, Prior
from bayes_lora.errors import RunFolderError
from bayes_lora.files import check_writable
from bayes_lora.guides import GUIDES, Guide
from bayes_lora.model import BayesianModel
from bayes_lora.named import named_from_json, named_to_json
from bayes_lora.scorers import SCORERS, Scorer

CONFIG_FILE = "posterior.json"
FORMAT = 2


@dataclass(frozen=True)
class PosteriorConfig:
    """What was fitted, apart from the weights; saved as ``posterior.json``.

    Args:
        scorer: How options are scored.
        guide: The guide's name in ``GUIDES``.
        effects: The terms of the model; none: the pretrained model.
        head_prior: Prior of the scorer's own weights.
        label_sets: The different label sets of the tasks it was fitted to.
        num_rows: Rows it was fitted on.
        kl_weight: Weight of the prior against the likelihood; not 1 means tempered.
        seed: Of the random starting values, where priors are centred.
        fit: Settings of the fit, for the record.
    """

    scorer: Scorer
    guide: str
    effects: tuple[Effect, ...]
    head_prior: Prior
    label_sets: tuple[tuple[str, ...], ...]
    num_rows: int
    kl_weight: float
    seed: int
    fit: dict[str, Any]

    def build(self, backbone: Backbone) -> tuple[BayesianModel, Guide]:
        """Make the Pyro program and its guide, at their starting values."""
        model = BayesianModel(
            backbone,
            self.effects,
            self.scorer,
            head_prior=self.head_prior,
            num_rows=self.num_rows,
            kl_weight=self.kl_weight,
            seed=self.seed,
        ).to(backbone.device)
        return model, GUIDES[self.guide](model).to(backbone.device)


@dataclass(frozen=True)
class RecordedBackbone:
    """What a run remembers of its backbone, whose weights it does not copy."""

    name: str
    fingerprint: str
    targets: str | list[str] | None
    max_length: int
    dtype: str

    @staticmethod
    def of(backbone: Backbone) -> "RecordedBackbone":
        """Remember a backbone."""
        return RecordedBackbone(
            backbone.name,
            backbone.fingerprint,
            backbone.targets,
            backbone.max_length,
            str(backbone.dtype).removeprefix("torch."),
        )


def describe(config: PosteriorConfig, backbone: Backbone) -> dict[str, Any]:
    """Describe a run as JSON; ``read_config`` reads it back."""
    return {
        "format": FORMAT,
        "backbone": asdict(RecordedBackbone.of(backbone)),
        "scorer": named_to_json(config.scorer, SCORERS),
        "label_sets": config.label_sets,
        "guide": config.guide,
        "effects": [effect.to_json() for effect in config.effects],
        "head_prior": config.head_prior.to_json(),
        "num_rows": config.num_rows,
        "kl_weight": config.kl_weight,
        "seed": config.seed,
        "fit": config.fit,
        "versions": {name: version(name) for name in ("torch", "transformers", "pyro-ppl")},
    }


def check_free(folder: Path) -> None:
    """Check that a run can be written to ``folder`` without writing over anything.

    Raises:
        RunFolderError: It exists and is not an empty folder.
        ConfigError: Nothing can be written there.
    """
    if (folder / CONFIG_FILE).exists():
        raise RunFolderError(f"{folder} holds another run: give a new folder, or delete it first.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not an empty folder: give a new one.")
    check_writable(folder)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{path.parent} holds no run: there is no {path.name} in it."
        ) from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}.") from error
    found = described.get("format") if isinstance(described, dict) else None
    if found != FORMAT:
        raise RunFolderError(
            f"{path} has format {found}, and this version of bayes-lora reads {FORMAT}: "
            f"use the version that wrote it."
        )
    return described


def read_config(path: Path) -> tuple[PosteriorConfig, RecordedBackbone]:
    """Read what was fitted, and what the run remembers of its backbone.

    Raises:
        RunFolderError: There is no such file, or it describes no posterior of this version.
    """
    described = _read_json(path)
    try:
        config = PosteriorConfig(
            scorer=named_from_json(described["scorer"], SCORERS),
            label_sets=tuple(tuple(labels) for labels in described["label_sets"]),
            guide=described["guide"],
            effects=tuple(Effect.from_json(effect) for effect in described["effects"]),
            head_prior=Prior.from_json(described["head_prior"]),
            num_rows=described["num_rows"],
            kl_weight=described["kl_weight"],
            seed=described["seed"],
            fit=described["fit"],
        )
        if config.guide not in GUIDES:
            raise KeyError(config.guide)
        return config, RecordedBackbone(**described["backbone"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} does not describe a posterior: {error!r}.") from error
