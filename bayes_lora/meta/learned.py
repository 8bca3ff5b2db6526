"""What meta-fitting leaves: theta and an amortization, which turn support sets into posteriors."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import safetensors.torch
import torch
from pyro import poutine

from bayes_lora.backbone import Backbone
from bayes_lora.data import Example, Task
from bayes_lora.data.task import labels_of
from bayes_lora.effects import Effect, Flat
from bayes_lora.errors import InputDataError, RunFolderError
from bayes_lora.files import atomic_folder
from bayes_lora.guides import MeanField
from bayes_lora.meta.amortization import TaskPosteriors
from bayes_lora.meta.config import TASK, MetaConfig
from bayes_lora.meta.development import fit_shift
from bayes_lora.meta.episodes import development_episodes
from bayes_lora.meta.module import MetaModule
from bayes_lora.meta.settings import MetaSettings
from bayes_lora.meta.task_posterior import TaskGuide, TaskPosterior, read_task
from bayes_lora.run_config import (
    META_FILE,
    PosteriorConfig,
    RecordedBackbone,
    check_free,
    load_state,
    origin,
    read_described,
)
from bayes_lora.scorers import LabelledRows, check_scorable, make_scorer

WEIGHTS_FILE = "meta.safetensors"
FORMAT = 2
MOST_SUPPORT = 1000  # examples of a task, all of which a gradient step takes at once


class MetaPosterior:
    """Theta and an amortization with their backbone: adapts to new tasks, saves, loads.

    Args:
        module: What was trained.
        config: What it is.
        dev_nlls: Of each meta-dev task's queries after adapting to its supports, mean over
            episodes, in nats; always the same episodes, so that methods can be compared by it.
            Empty where there are no such tasks.
    """

    def __init__(
        self, module: MetaModule, config: MetaConfig, dev_nlls: Mapping[str, float] | None = None
    ) -> None:
        self.module = module.requires_grad_(False).eval()
        self.config = config
        self.dev_nlls = dict(dev_nlls or {})

    @property
    def dev_nll(self) -> float | None:
        """The mean over meta-dev tasks; None where there are none."""
        return fmean(self.dev_nlls.values()) if self.dev_nlls else None

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self.module.hierarchy.model.backbone

    def adapt(self, support: Sequence[Example] = ()) -> TaskPosterior:
        """Give the posterior of a task from its labelled examples.

        Args:
            support: None to hundreds of them. Without any, the prior predictive.

        Raises:
            InputDataError: One has no label, or options that cannot be scored, or there are more
                than ``MOST_SUPPORT``.
        """
        return self.adapt_all([support])[0]

    def adapt_all(self, supports: Sequence[Sequence[Example]]) -> list[TaskPosterior]:
        """Adapt to several tasks side by side in the same passes, as ``adapt`` does to one.

        Memory grows with their number: give a few at a time. What the steps draw depends on a
        task's place among them, so posteriors differ by that noise from those of one by one.
        """
        rows = [self._rows(support) for support in supports]
        module = self.module
        with torch.no_grad(), poutine.block(), torch.random.fork_rng():
            torch.manual_seed(self.config.settings.seed)
            posteriors = module.amortization(module.hierarchy, module.theta.predictive(), rows)
        theta = self.fingerprint  # reads all of it: once, and not for every task
        return [self._task(posteriors, i, own, theta) for i, own in enumerate(rows)]

    def _rows(self, support: Sequence[Example]) -> LabelledRows:
        if len(support) > MOST_SUPPORT:
            raise InputDataError(
                f"{len(support)} examples of one task: adapting takes {MOST_SUPPORT} at most. Give "
                "some of them (--support), or fit the task by itself."
            )
        check_scorable(self.config.scorer, self.backbone, support)
        labels = labels_of(support)
        rows = self.config.scorer.rows(self.backbone, support) if support else []
        return LabelledRows(rows, labels)

    def _task(
        self, posteriors: TaskPosteriors, number: int, support: LabelledRows, theta: str
    ) -> TaskPosterior:
        hierarchy = self.module.hierarchy
        guide = TaskGuide(
            hierarchy.model,
            {name: value[number] for name, value in posteriors.loc.items()},
            {name: value[number] for name, value in posteriors.scale.items()},
            {f"head.{name}": value[0] for name, value in hierarchy.shifted_head().items()},
        )
        return TaskPosterior(hierarchy.model, guide, support, self._describe(support), theta)

    def _describe(self, support: LabelledRows) -> PosteriorConfig:
        """Say what a task's posterior is, as of any other."""
        settings = self.config.settings
        return PosteriorConfig(
            scorer=self.config.scorer.with_support(support),
            guide=MeanField(),
            effects=(Effect(TASK, self.config.adapter, Flat()),),
            head_prior=Flat(),
            label_sets=self.config.label_sets,
            num_rows=max(1, len(support)),
            kl_weight=settings.kl_weight,
            seed=settings.seed,
            fit=settings.to_json(),
        )

    def load_task(self, path: str | Path) -> TaskPosterior:
        """Read a task's posterior that was saved under this theta.

        Raises:
            RunFolderError: It cannot be read, or belongs to another theta.
        """
        module, fingerprint = self.module, self.fingerprint
        loc, scale, support = read_task(Path(path), fingerprint, module.hierarchy.sites)
        posteriors = module.amortization.without_support(module.theta.predictive(), 1)
        if loc:
            device = self.backbone.device
            posteriors = TaskPosteriors(
                {name: value.unsqueeze(0).to(device) for name, value in loc.items()},
                {name: value.unsqueeze(0).to(device) for name, value in scale.items()},
            )
        return self._task(posteriors, 0, support, fingerprint)

    def revised(
        self, settings: MetaSettings, *, dev: Iterable[Task] = (), scorer: str | None = None
    ) -> "MetaPosterior":
        """The same theta, adapted to new tasks in another way.

        Args:
            settings: Whose ``steps``, learning rates, ``kl_weight`` and, where it was not learned,
                ``tau`` count; nothing is trained anew.
            dev: Meta-dev tasks to fit the scorer's own weights on; without, they are as they were.
            scorer: Another scorer, whose own weights start anew; None for the same.
        """
        chosen = self.config.scorer if scorer is None else make_scorer(scorer, self.backbone, ())
        config = replace(self.config, settings=settings, scorer=chosen)
        module = config.build(self.backbone)
        self.hand_over(module)
        module.amortization.load_state_dict(self.module.amortization.state_dict())
        held_out = development_episodes(module.hierarchy.model, dev, settings.episodes)
        nlls = fit_shift(module.eval(), held_out) if held_out else None
        return MetaPosterior(module, config, nlls)

    def hand_over(self, module: MetaModule) -> None:
        """Start another module from this theta, and from the scorer's own weights if it has those.

        Raises:
            ConfigError: It belongs to another adapter or backbone.
        """
        module.theta.take_over(self.module.theta, with_scale=self.config.settings.learn_tau)
        if type(module.hierarchy.model.scorer) is type(self.config.scorer):
            module.hierarchy.load_state_dict(self.module.hierarchy.state_dict())

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
            described["dev_nlls"] = self.dev_nlls
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
            dev_nlls = described["dev_nlls"]
            recorded = RecordedBackbone(**described["backbone"])
        except (KeyError, TypeError, AttributeError) as error:
            path = folder / META_FILE
            raise RunFolderError(f"{path} does not describe a meta-fit: {error!r}.") from error
        loaded = recorded.load(folder, name=backbone, dtype=dtype, device=device)
        module = config.build(loaded)
        load_state(folder / WEIGHTS_FILE, {"": module})
        return cls(module, config, dev_nlls)
