"""A fitted posterior with its backbone: draws, predicts, saves, loads."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from bayes_lora.backbone import Backbone, ClassHead, load_backbone
from bayes_lora.effects import Effect, Prior
from bayes_lora.errors import ConfigError, RunFolderError
from bayes_lora.files import atomic_folder, check_writable
from bayes_lora.guides import GUIDES, Guide, sample
from bayes_lora.model import BayesianModel
from bayes_lora.predict import Predictions, predict

CONFIG_FILE = "posterior.json"
WEIGHTS_FILE = "posterior.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class PosteriorConfig:
    """What was fitted, apart from the weights; saved as ``posterior.json``.

    Args:
        options: Label names, in the order of the probabilities.
        guide: The guide's name in ``GUIDES``.
        effects: The terms of the model.
        head_prior: Prior of the head.
        pooling: How the head pools states: ``mean`` or ``last``.
        num_rows: Rows it was fitted on.
        kl_weight: Weight of the prior against the likelihood; not 1 means tempered.
        seed: Of the random starting values, where priors are centred.
        fit: Settings of the fit, for the record.
    """

    options: tuple[str, ...]
    guide: str
    effects: tuple[Effect, ...]
    head_prior: Prior
    pooling: str
    num_rows: int
    kl_weight: float
    seed: int
    fit: dict[str, Any]

    def build(self, backbone: Backbone) -> tuple[BayesianModel, Guide]:
        """Make the Pyro program and its guide, at their starting values."""
        model = BayesianModel(
            backbone,
            self.effects,
            ClassHead(len(self.options), self.pooling),
            head_prior=self.head_prior,
            num_rows=self.num_rows,
            kl_weight=self.kl_weight,
            seed=self.seed,
        ).to(backbone.device)
        return model, GUIDES[self.guide](model).to(backbone.device)


class Posterior:
    """A fitted guide, the program it belongs to, and the backbone they run on.

    Args:
        model: The program.
        guide: The fitted guide.
        config: What was fitted.
    """

    def __init__(self, model: BayesianModel, guide: Guide, config: PosteriorConfig) -> None:
        self.model = model
        self.guide = guide
        self.config = config

    @property
    def options(self) -> tuple[str, ...]:
        """Label names, in the order of the probabilities."""
        return self.config.options

    def draw(self, num_draws: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw all weights from the posterior.

        Args:
            num_draws: How many; 0 gives the posterior mean, as one entry.
            seed: Draw i depends on the seed and i alone.

        Returns:
            Site name to values, ``[num_draws, *shape]``, float32.

        Raises:
            ConfigError: ``num_draws`` is negative.
        """
        if num_draws < 0:
            raise ConfigError(f"The number of draws cannot be negative: {num_draws}.")
        if num_draws == 0:
            return {name: value.unsqueeze(0) for name, value in self.guide.mean().items()}
        return sample(self.guide, num_draws, seed)

    def predict(
        self,
        texts: Sequence[str],
        *,
        draws: int = 10,
        seed: int = 0,
        tokens_per_pass: int | None = None,
        keep_draws: bool = False,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> Predictions:
        """Give probabilities for each text, averaged over posterior draws.

        A draw is one coherent set of weights for the whole data set, so results do not depend on
        the batches or the order of the texts.

        Args:
            texts: Inputs; at least one.
            draws: Draws to average over; 0 predicts with the posterior mean. A point has nothing
                to average, so one draw is taken.
            seed: Of the draws.
            tokens_per_pass: Most tokens in one forward pass; None for the device's default.
            keep_draws: Also return each draw's probabilities.
            progress: Called with the number of rows done, after each chunk of rows.

        Raises:
            ConfigError: No texts, or a negative number of draws.
        """
        num_draws = draws if self.guide.random else min(draws, 1)
        predictions = predict(
            self.model,
            self.draw(num_draws, seed=seed),
            texts,
            tokens_per_pass=tokens_per_pass,
            keep_draws=keep_draws,
            progress=progress,
        )
        return replace(predictions, num_draws=num_draws)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the posterior to a new folder, all of it or nothing.

        Raises:
            RunFolderError: The folder exists and is not empty, or cannot be written.
        """
        folder = Path(folder)
        check_free(folder)
        with atomic_folder(folder) as unfinished:
            state = {f"guide.{k}": v for k, v in self.guide.state_dict().items()}
            state |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
            state = {k: v.contiguous().cpu() for k, v in state.items()}
            safetensors.torch.save_file(state, unfinished / WEIGHTS_FILE)
            (unfinished / CONFIG_FILE).write_text(json.dumps(self._to_json(), indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        backbone: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "Posterior":
        """Load a posterior and the backbone it was fitted on.

        Args:
            folder: Where ``save_pretrained`` wrote it.
            backbone: The backbone's name or path, if it is not where it was at the fit.
            dtype: Of the frozen weights; None for the one of the fit.
            device: Where to run; None for a GPU if there is one.

        Raises:
            RunFolderError: The folder holds no posterior, a broken one, or one of another backbone.
        """
        folder = Path(folder)
        config, recorded = _read_config(folder / CONFIG_FILE)
        name = backbone or recorded.name
        loaded = load_backbone(
            name,
            targets=recorded.targets,
            dtype=dtype or getattr(torch, recorded.dtype),
            max_length=recorded.max_length,
        )
        if loaded.fingerprint != recorded.fingerprint:
            raise RunFolderError(
                f"{folder} was fitted on {recorded.name!r} with fingerprint "
                f"{recorded.fingerprint[:12]}, but {name!r} has {loaded.fingerprint[:12]}: its "
                f"weights are not the same. Give the original backbone."
            )
        loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model, guide = config.build(loaded)
        _load_weights(folder / WEIGHTS_FILE, model, guide)
        return cls(model, guide, config)

    def _to_json(self) -> dict[str, Any]:
        config = self.config
        return {
            "format": FORMAT,
            "backbone": asdict(_RecordedBackbone.of(self.model.backbone)),
            "options": list(config.options),
            "guide": config.guide,
            "effects": [effect.to_json() for effect in config.effects],
            "head_prior": config.head_prior.to_json(),
            "pooling": config.pooling,
            "num_rows": config.num_rows,
            "kl_weight": config.kl_weight,
            "seed": config.seed,
            "fit": config.fit,
            "versions": {name: version(name) for name in ("torch", "transformers", "pyro-ppl")},
        }


@dataclass(frozen=True)
class _RecordedBackbone:
    """What a run remembers of its backbone, whose weights it does not copy."""

    name: str
    fingerprint: str
    targets: str | list[str] | None
    max_length: int
    dtype: str

    @staticmethod
    def of(backbone: Backbone) -> "_RecordedBackbone":
        return _RecordedBackbone(
            backbone.name,
            backbone.fingerprint,
            backbone.targets,
            backbone.max_length,
            str(backbone.dtype).removeprefix("torch."),
        )


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


def _read_config(path: Path) -> tuple[PosteriorConfig, _RecordedBackbone]:
    described = _read_json(path)
    try:
        config = PosteriorConfig(
            options=tuple(described["options"]),
            guide=described["guide"],
            effects=tuple(Effect.from_json(effect) for effect in described["effects"]),
            head_prior=Prior.from_json(described["head_prior"]),
            pooling=described["pooling"],
            num_rows=described["num_rows"],
            kl_weight=described["kl_weight"],
            seed=described["seed"],
            fit=described["fit"],
        )
        if config.guide not in GUIDES:
            raise KeyError(config.guide)
        return config, _RecordedBackbone(**described["backbone"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} does not describe a posterior: {error!r}.") from error


def _load_weights(path: Path, model: BayesianModel, guide: Guide) -> None:
    try:
        state = safetensors.torch.load_file(path)
        for prefix, module in (("guide.", guide), ("model.", model)):
            part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            module.load_state_dict(part)
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RunFolderError(f"{path} cannot be read: {reason}") from error
