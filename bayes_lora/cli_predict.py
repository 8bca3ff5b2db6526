"""What `predict` can predict with: the three kinds of run, and a backbone as it is."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bayes_lora.backbone import MINILM, Backbone
from bayes_lora.cli_input import DTYPES, load_named
from bayes_lora.data import Task, TaskSet
from bayes_lora.data.spec import file_tasks
from bayes_lora.errors import ConfigError
from bayes_lora.meta import MetaPosterior
from bayes_lora.meta.adapted import AdaptedRun
from bayes_lora.output import Support
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import CONFIG_FILE, DESCRIPTIONS, META_FILE
from bayes_lora.scorers import Scorer, default_scorer

Assigned = Iterable[tuple[Posterior, Sequence[Task]]]


@dataclass(frozen=True)
class Run:
    """What predicts.

    Args:
        scorer: Scores the rows.
        backbone: What it runs on.
        labels: ``options`` or ``label_sets``, for ``read``.
        assign: Tasks to the posteriors that answer them, one after another.
        support: For few-shot runs, how many examples were adapted on, and the seed of their draw.
        attributes: The columns whose levels have weights of their own.
    """

    scorer: Scorer
    backbone: Backbone
    labels: dict[str, Any]
    assign: Callable[[TaskSet], Assigned]
    support: Support | None = None
    attributes: tuple[str, ...] = ()


def load_run(arguments: argparse.Namespace) -> Run:
    """Load what the command names: a run, or else a backbone.

    Raises:
        ConfigError: A flag does not go with it, or it is neither.
        RunFolderError: It is a run, and broken.
    """
    if bool(arguments.recalibrate) != bool(arguments.dev):
        raise ConfigError("--recalibrate and --dev go together: how, and on which labelled rows.")
    run = _load(arguments)
    if arguments.unknown and not run.attributes:
        raise ConfigError(
            f"--unknown is for a run with attributes, and {arguments.run_folder!r} has none."
        )
    if arguments.linearised and run.attributes:
        raise ConfigError(
            f"--linearised is for a run without attributes, and {arguments.run_folder!r} has some."
        )
    return run


def _load(arguments: argparse.Namespace) -> Run:
    folder = Path(arguments.run_folder)
    kind = next((name for name in DESCRIPTIONS if (folder / name).exists()), None)
    if kind is None:
        return _of_posterior(_load_pretrained(arguments))
    for flag, value in (("scorer", arguments.scorer), ("max-length", arguments.max_length)):
        if value is not None:
            raise ConfigError(f"--{flag} is for a backbone: a run keeps the one of its fit.")
    dtype = DTYPES[arguments.dtype] if arguments.dtype else None
    loading: dict[str, Any] = {"backbone": arguments.model, "dtype": dtype}
    if kind == CONFIG_FILE:
        return _of_posterior(Posterior.from_pretrained(folder, **loading))
    if kind == META_FILE:
        return _of_meta(MetaPosterior.from_pretrained(folder, **loading))
    return _of_adapted(AdaptedRun.from_pretrained(folder, **loading), file_tasks(arguments.data))


def _of_posterior(posterior: Posterior) -> Run:
    """One posterior for all tasks."""
    if posterior.reads_options:
        labels: dict[str, Any] = {"label_sets": posterior.config.label_sets}
    else:
        labels = {"options": posterior.options}
    scorer, backbone = posterior.config.scorer, posterior.model.backbone
    return Run(
        scorer,
        backbone,
        labels,
        lambda tasks: [(posterior, tasks.tasks)],
        attributes=tuple(own.levels.attribute for own in posterior.model.by_level.values()),
    )


def _of_meta(source: MetaPosterior) -> Run:
    """The prior predictive for every task."""
    return replace(_of_posterior(source.adapt()), support=(0, None))


def _of_adapted(run: AdaptedRun, files: Iterable[str]) -> Run:
    """Each task's own posterior; files' tasks must have one, since it knows their labels."""
    run.check_has(files)
    config, shots = run.source.config, run.shots
    support = None if shots is None else (shots.size, shots.seed if shots.size else None)
    labels = {"label_sets": run.options}

    def assign(tasks: TaskSet) -> Assigned:
        run.check_has(task.name for task in tasks)  # before the work
        return ((run.posterior(task.name), [task]) for task in tasks)

    return Run(config.scorer, run.source.backbone, labels, assign, support)


def _load_pretrained(arguments: argparse.Namespace) -> Posterior:
    name = arguments.run_folder
    if arguments.model:
        raise ConfigError(f"--model is for a run, and there is no {CONFIG_FILE} in {name!r}.")
    if not Path(name).exists() and name != MINILM:
        print(f"{name!r} is not here: looking for a backbone of that name on the hub")
    try:
        backbone = load_named(name, arguments)
    except ConfigError as error:
        raise ConfigError(
            f"{name!r} is neither a run (there is no {CONFIG_FILE} in it) nor a backbone. {error}"
        ) from error
    scorer = arguments.scorer or default_scorer(backbone, (), zero_shot=True)
    print(f"{name} as it is, nothing fitted, scorer {scorer}")
    return Posterior.pretrained(backbone, scorer)
