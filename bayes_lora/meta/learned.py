"""What meta-fitting leaves: theta and an amortization, which turn support sets into posteriors."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pyro import poutine

from bayes_lora.adapters import ADAPTERS, Adapter
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example
from bayes_lora.effects import Effect, Flat
from bayes_lora.errors import InputDataError, RunFolderError
from bayes_lora.files import atomic_folder
from bayes_lora.meta.amortization import TaskPosteriors, prior
from bayes_lora.meta.encoder import Encoder
from bayes_lora.meta.gradient import Gradient
from bayes_lora.meta.hierarchy import Hierarchy
from bayes_lora.meta.settings import MetaSettings
from bayes_lora.meta.task_posterior import TaskGuide, TaskPosterior, read_task
from bayes_lora.meta.theta import THETA_GUIDES, adapter_sites
from bayes_lora.meta.training import MetaModule
from bayes_lora.model import BayesianModel
from bayes_lora.named import named_from_json, named_to_json
from bayes_lora.run_config import (
    META_FILE,
    RecordedBackbone,
    check_free,
    load_state,
    origin,
    read_described,
)
from bayes_lora.scorers import SCORERS, LabelledRows, Scorer, check_scorable

WEIGHTS_FILE = "meta.safetensors"
FORMAT = 1
TASK = "task"


@dataclass(frozen=True)
class MetaConfig:
    """What was meta-fitted, apart from the weights; saved as ``meta.json``.

    Args:
        scorer: How options are scored.
        adapter: What a task's weights are.
        settings: How it was learned.
        tasks: Names of the meta-training tasks.
        dev_tasks: Names of the meta-dev tasks.
        label_sets: The different label sets of the training tasks.
    """

    scorer: Scorer
    adapter: Adapter
    settings: MetaSettings
    tasks: tuple[str, ...]
    dev_tasks: tuple[str, ...]
    label_sets: tuple[tuple[str, ...], ...]

    def build(self, backbone: Backbone) -> MetaModule:
        """Make the program, theta and the amortization, at their starting values."""
        settings = self.settings
        model = BayesianModel(
            backbone,
            [Effect(TASK, self.adapter, Flat())],  # the hierarchy is the prior
            self.scorer,
            head_prior=Flat(),
            num_rows=1,
            seed=settings.seed,
        ).to(backbone.device)
        hierarchy = Hierarchy(model, len(self.tasks), settings.hyper_priors, settings.kl_weight)
        theta = THETA_GUIDES[settings.theta](adapter_sites(model), settings.tau)
        if not settings.learn_tau:
            theta.fix_scale()
        gradient = Gradient(
            settings.gradient_steps, settings.learning_rate, settings.scale_learning_rate
        )
        if settings.amortization == "encoder":
            gradient.start = Encoder(model, theta.predictive().scale, seed=settings.seed)
        return MetaModule(hierarchy, theta, gradient).to(backbone.device)

    def to_json(self) -> dict[str, Any]:
        """Describe it."""
        return {
            "scorer": named_to_json(self.scorer, SCORERS),
            "adapter": named_to_json(self.adapter, ADAPTERS),
            "settings": self.settings.to_json(),
            "tasks": self.tasks,
            "dev_tasks": self.dev_tasks,
            "label_sets": self.label_sets,
        }

    @staticmethod
    def from_json(described: dict[str, Any]) -> "MetaConfig":
        """Make what ``to_json`` described."""
        return MetaConfig(
            scorer=named_from_json(described["scorer"], SCORERS),
            adapter=named_from_json(described["adapter"], ADAPTERS),
            settings=MetaSettings.from_json(described["settings"]),
            tasks=tuple(described["tasks"]),
            dev_tasks=tuple(described["dev_tasks"]),
            label_sets=tuple(tuple(labels) for labels in described["label_sets"]),
        )


class MetaPosterior:
    """Theta and an amortization with their backbone: adapts to new tasks, saves, loads.

    Args:
        module: What was trained.
        config: What it is.
    """

    def __init__(self, module: MetaModule, config: MetaConfig) -> None:
        self.module = module.requires_grad_(False)
        self.config = config

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self.module.hierarchy.model.backbone

    def adapt(self, support: Sequence[Example] = ()) -> TaskPosterior:
        """Give the posterior of a task from its labelled examples.

        Args:
            support: None to hundreds of them. Without any, the prior predictive.

        Raises:
            InputDataError: One has no label, or options that cannot be scored.
        """
        return self.adapt_all([support])[0]

    def adapt_all(self, supports: Sequence[Sequence[Example]]) -> list[TaskPosterior]:
        """Adapt to several tasks side by side in the same passes, as ``adapt`` does to one.

        Memory grows with their number: give a few at a time.
        """
        rows = [self._rows(support) for support in supports]
        with torch.no_grad(), poutine.block(), torch.random.fork_rng():
            torch.manual_seed(self.config.settings.seed)
            posteriors = self._posteriors(rows)
        return [self._task(posteriors, i, support) for i, support in enumerate(rows)]

    def _posteriors(self, rows: Sequence[LabelledRows]) -> TaskPosteriors:
        """Amortize where there is support; the others keep the prior."""
        hierarchy, theta = self.module.hierarchy, self.module.theta.predictive()
        posteriors = prior(theta, len(rows))
        given = [i for i, support in enumerate(rows) if len(support)]
        if not given:
            return posteriors
        adapted = self.module.amortization(hierarchy, theta, [rows[i] for i in given])
        return posteriors.with_some(adapted, torch.tensor(given, device=self.backbone.device))

    def _rows(self, support: Sequence[Example]) -> LabelledRows:
        check_scorable(self.config.scorer, self.backbone, support)
        labels = []
        for example in support:
            if example.label is None:
                raise InputDataError(f"{example.where}: there is no label; fill it in")
            labels.append(example.label)
        rows = self.config.scorer.rows(self.backbone, support) if support else []
        return LabelledRows(rows, labels)

    def _task(
        self, posteriors: TaskPosteriors, number: int, support: LabelledRows
    ) -> TaskPosterior:
        hierarchy = self.module.hierarchy
        guide = TaskGuide(
            hierarchy.model,
            {name: value[number] for name, value in posteriors.loc.items()},
            {name: value[number] for name, value in posteriors.scale.items()},
            {name: value[0] for name, value in hierarchy.head_values().items()},
        )
        return TaskPosterior(hierarchy.model, guide, support, self)

    def load_task(self, path: str | Path) -> TaskPosterior:
        """Read a task's posterior that was saved under this theta.

        Raises:
            RunFolderError: It cannot be read, or belongs to another theta.
        """
        loc, scale, support = read_task(Path(path), self)
        posteriors = prior(self.module.theta.predictive(), 1)
        if loc:
            device = self.backbone.device
            posteriors = TaskPosteriors(
                {name: value.unsqueeze(0).to(device) for name, value in loc.items()},
                {name: value.unsqueeze(0).to(device) for name, value in scale.items()},
            )
        return self._task(posteriors, 0, support)

    @property
    def fingerprint(self) -> str:
        """Identifies theta's values: SHA-256 of the trained state."""
        digest = hashlib.sha256()
        for name, value in sorted(self.module.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write theta and the amortization to a new folder, all of it or nothing.

        Raises:
            RunFolderError: The folder exists and is not empty, or cannot be written.
        """
        folder = Path(folder)
        check_free(folder)
        with atomic_folder(folder) as unfinished:
            state = {n: v.contiguous().cpu() for n, v in self.module.state_dict().items()}
            safetensors.torch.save_file(state, unfinished / WEIGHTS_FILE)
            described = origin(FORMAT, self.backbone) | self.config.to_json()
            (unfinished / META_FILE).write_text(json.dumps(described, indent=2) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        backbone: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "MetaPosterior":
        """Load theta, its amortization and the backbone they belong to.

        Arguments and errors are those of ``Posterior.from_pretrained``.
        """
        folder = Path(folder)
        described = read_described(folder / META_FILE, FORMAT)
        try:
            config = MetaConfig.from_json(described)
            recorded = RecordedBackbone(**described["backbone"])
        except (KeyError, TypeError, AttributeError) as error:
            path = folder / META_FILE
            raise RunFolderError(f"{path} does not describe a meta-fit: {error!r}.") from error
        loaded = recorded.load(folder, name=backbone, dtype=dtype, device=device)
        module = config.build(loaded)
        load_state(folder / WEIGHTS_FILE, {"": module})
        return cls(module, config)
