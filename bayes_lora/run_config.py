"""What a run's folder says of itself: ``posterior.json``, read and written."""

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from bayes_lora.adapters import Adapter
from bayes_lora.backbone import Backbone, BayesianAdapter, load_backbone
from bayes_lora.backbone.peft_loading import load_peft
from bayes_lora.backbone.peft_model import FOLDER as PEFT_FOLDER
from bayes_lora.data import Levels
from bayes_lora.effects import Effect, Prior
from bayes_lora.errors import RunFolderError
from bayes_lora.files import check_writable
from bayes_lora.fusion import Fusion
from bayes_lora.guides import GUIDES, Family, Guide
from bayes_lora.model import BayesianModel
from bayes_lora.named import named_from_json, named_to_json
from bayes_lora.scorers import SCORERS, Scorer
from bayes_lora.terms import Terms

CONFIG_FILE = "posterior.json"
META_FILE = "meta.json"
ADAPTED_FILE = "adapted.json"
DESCRIPTIONS = (CONFIG_FILE, META_FILE, ADAPTED_FILE)  # of the three kinds of run
FORMAT = 3


@dataclass(frozen=True)
class PosteriorConfig:
    """What was fitted, apart from the weights; saved as ``posterior.json``.

    Args:
        scorer: How options are scored.
        guide: The posterior's family and its settings.
        effects: The terms of the model; none: the pretrained model.
        head_prior: Prior of the scorer's own weights.
        label_sets: The different label sets of the tasks it was fitted to.
        num_rows: Rows it was fitted on.
        kl_weight: Weight of the prior against the likelihood; not 1 means tempered.
        seed: Of the random starting values, where priors are centred.
        fit: Settings of the fit, for the record.
        levels: Of each effect with an attribute, by its name, the levels it was fitted to.
        coordinates: Of such an effect with a Pooled prior, how many coordinates a level has.
        fusion: How the views of such a model become one prediction.
        terms: What was observed beside the labels.
        separated: Whether the population was then fitted further, alone.
    """

    scorer: Scorer
    guide: Family
    effects: tuple[Effect, ...]
    head_prior: Prior
    label_sets: tuple[tuple[str, ...], ...]
    num_rows: int
    kl_weight: float
    seed: int
    fit: dict[str, Any]
    levels: dict[str, Levels] = field(default_factory=dict)
    coordinates: dict[str, int] = field(default_factory=dict)
    fusion: Fusion = Fusion.SUM
    terms: Terms = field(default_factory=Terms)
    separated: bool = False

    @property
    def shared_adapter(self) -> Adapter | None:
        """The adapter, if there is one and all rows share it."""
        alone = len(self.effects) == 1 and self.effects[0].by is None
        return self.effects[0].adapter if alone else None

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
            levels=self.levels,
            coordinates=self.coordinates,
            fusion=self.fusion,
            terms=self.terms,
        ).to(backbone.device)
        return model, self.guide.build(model).to(backbone.device)


@dataclass(frozen=True)
class RecordedBackbone:
    """What a run remembers of its backbone, whose weights it does not copy."""

    name: str
    fingerprint: str
    targets: str | list[str] | None
    max_length: int
    dtype: str
    peft: str | None = None  # a PEFT model's base class in transformers

    @staticmethod
    def of(backbone: Backbone) -> "RecordedBackbone":
        """Remember a backbone."""
        return RecordedBackbone(
            backbone.name,
            backbone.fingerprint,
            backbone.targets,
            backbone.max_length,
            str(backbone.dtype).removeprefix("torch."),
            backbone.base_class if isinstance(backbone, BayesianAdapter) else None,
        )

    def load(
        self,
        folder: Path,
        *,
        name: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Backbone:
        """Load the backbone that a run was fitted on.

        Args:
            folder: The run, for messages.
            name: The backbone's name or path, if it is not where it was.
            dtype: Of the frozen weights; None for the one of the fit.
            device: Where to run; None for a GPU if there is one.

        Raises:
            RunFolderError: The backbone's weights are other ones.
        """
        name, dtype = name or self.name, dtype or getattr(torch, self.dtype)
        length = self.max_length
        if self.peft is None:
            loaded = load_backbone(name, targets=self.targets, dtype=dtype, max_length=length)
        else:
            loaded = load_peft(
                folder / PEFT_FOLDER, name, self.peft, dtype=dtype, max_length=length
            )
        if loaded.fingerprint != self.fingerprint:
            raise RunFolderError(
                f"{folder} was fitted on {self.name!r} with fingerprint "
                f"{self.fingerprint[:12]}, but {name!r} has {loaded.fingerprint[:12]}: its "
                f"weights are not the same. Give the original backbone."
            )
        return loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def origin(format_number: int, backbone: Backbone) -> dict[str, Any]:
    """Describe what every run was made with: its format, backbone and libraries."""
    return {
        "format": format_number,
        "backbone": asdict(RecordedBackbone.of(backbone)),
        "versions": {name: version(name) for name in ("torch", "transformers", "pyro-ppl")},
    }


def describe(config: PosteriorConfig, backbone: Backbone) -> dict[str, Any]:
    """Describe a run as JSON; ``read_config`` reads it back."""
    return origin(FORMAT, backbone) | {
        "scorer": named_to_json(config.scorer, SCORERS),
        "label_sets": config.label_sets,
        "guide": named_to_json(config.guide, GUIDES),
        "effects": [effect.to_json() for effect in config.effects],
        "head_prior": config.head_prior.to_json(),
        "num_rows": config.num_rows,
        "kl_weight": config.kl_weight,
        "seed": config.seed,
        "fit": config.fit,
        "levels": {name: asdict(levels) for name, levels in config.levels.items()},
        "coordinates": config.coordinates,
        "fusion": config.fusion,
        "terms": asdict(config.terms),
        "separated": config.separated,
    }


def check_free(folder: Path) -> None:
    """Check that a run can be written to ``folder`` without writing over anything.

    Raises:
        RunFolderError: It exists and is not an empty folder.
        ConfigError: Nothing can be written there.
    """
    if any((folder / name).exists() for name in DESCRIPTIONS):
        raise RunFolderError(f"{folder} holds another run: give a new folder, or delete it first.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists and is not an empty folder: give a new one.")
    check_writable(folder)


def read_described(path: Path, format_number: int) -> dict[str, Any]:
    """Read a run's description.

    Raises:
        RunFolderError: There is none, or none of this format.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{path.parent} holds no run: there is no {path.name} in it."
        ) from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}.") from error
    found = described.get("format") if isinstance(described, dict) else None
    if found != format_number:
        raise RunFolderError(
            f"{path} has format {found}, and this version of bayes-lora reads {format_number}: "
            f"use the version that wrote it."
        )
    return described


def read_config(path: Path) -> tuple[PosteriorConfig, RecordedBackbone]:
    """Read what was fitted, and what the run remembers of its backbone.

    Raises:
        RunFolderError: There is no such file, or it describes no posterior of this version.
    """
    described = read_described(path, FORMAT)
    try:
        return PosteriorConfig(
            scorer=named_from_json(described["scorer"], SCORERS),
            label_sets=tuple(tuple(labels) for labels in described["label_sets"]),
            guide=named_from_json(described["guide"], GUIDES),
            effects=tuple(Effect.from_json(effect) for effect in described["effects"]),
            head_prior=Prior.from_json(described["head_prior"]),
            num_rows=described["num_rows"],
            kl_weight=described["kl_weight"],
            seed=described["seed"],
            fit=described["fit"],
            levels={name: _levels(own) for name, own in described.get("levels", {}).items()},
            coordinates=described.get("coordinates", {}),
            fusion=Fusion(described.get("fusion", Fusion.SUM)),
            terms=Terms(**described.get("terms", {})),
            separated=described.get("separated", False),
        ), RecordedBackbone(**described["backbone"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path} does not describe a posterior: {error!r}.") from error


def _levels(described: dict[str, Any]) -> Levels:
    return Levels(described["attribute"], tuple(described["names"]), tuple(described["counts"]))


def load_state(path: Path, modules: dict[str, nn.Module]) -> None:
    """Load modules' states from one file, each by the prefix of its names.

    Raises:
        RunFolderError: The file is missing, broken or of something else.
    """
    try:
        state = safetensors.torch.load_file(path)
        for prefix, module in modules.items():
            part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            module.load_state_dict(part)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch's first line names the module, and the next ones what is missing there.
        reason = "; ".join(line.strip() for line in str(error).strip().splitlines()[:3])
        raise RunFolderError(f"{path} cannot be read: {reason}") from error
