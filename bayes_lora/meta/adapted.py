"""Adapted runs: the posteriors of many tasks in one folder, beside the meta run they refer to."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bayes_lora.data import Example, Kind, Task, sample_support
from bayes_lora.errors import InputDataError, RunFolderError
from bayes_lora.files import atomic_folder
from bayes_lora.meta.learned import MetaPosterior
from bayes_lora.meta.task_posterior import TaskPosterior
from bayes_lora.run_config import ADAPTED_FILE, META_FILE, check_free, read_described

FORMAT = 1
ROWS_AT_ONCE = 64  # of tasks side by side, padded to the largest support
SLUG = 60  # characters of a task's name in its file's


@dataclass(frozen=True)
class Shots:
    """Few examples of a task instead of all.

    Args:
        size: How many: of each class of a task with fixed labels, in all for multiple choice.
        seed: Which; of a task the same ones whatever other tasks there are, and a smaller size's
            are among a larger one's.
    """

    size: int
    seed: int = 0

    def of(self, task: Task) -> tuple[Example, ...]:
        """Draw a task's support.

        Raises:
            InputDataError: There are not so many.
        """
        rng = np.random.default_rng([self.seed, *task.name.encode()])
        per_class = task.kind is Kind.FIXED_LABELS
        return sample_support(task, self.size, per_class=per_class, rng=rng)


@dataclass(frozen=True)
class AdaptedTask:
    """What ``adapted.json`` says of a task.

    Args:
        file: Its posterior, from the run's folder.
        rows: Examples it was adapted on.
        options: Its labels, if they are fixed.
    """

    file: str
    rows: int
    options: tuple[str, ...] | None


class AdaptedRun:
    """Posteriors of tasks by name, each read when it is asked for.

    Args:
        folder: Where they lie.
        source: What adapted to them.
        tasks: What is known of each.
        shots: How their support was drawn; None where it is all the rows there were.
    """

    def __init__(
        self,
        folder: Path,
        source: MetaPosterior,
        tasks: Mapping[str, AdaptedTask],
        shots: Shots | None,
    ) -> None:
        self.folder = folder
        self.source = source
        self.tasks = tasks
        self.shots = shots

    @property
    def options(self) -> dict[str, tuple[str, ...]]:
        """The labels of each task that has fixed ones."""
        return {name: task.options for name, task in self.tasks.items() if task.options}

    def posterior(self, name: str) -> TaskPosterior:
        """Read a task's posterior.

        Raises:
            InputDataError: There is none.
            RunFolderError: It cannot be read.
        """
        self.check_has([name])
        return self.source.load_task(self.folder / self.tasks[name].file)

    def check_has(self, names: Iterable[str]) -> None:
        """Check that there is a posterior of every task.

        Raises:
            InputDataError: There is not.
        """
        missing = [name for name in names if name not in self.tasks]
        if missing:
            raise InputDataError(
                f"{str(self.folder)!r} has no posterior of {', '.join(missing)}: adapt to it "
                "(a file's task is called by the file's name), or predict with the meta run, "
                "which needs no examples"
            )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        backbone: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "AdaptedRun":
        """Read what ``write_adapted`` wrote, and the meta run it refers to.

        Arguments are those of ``Posterior.from_pretrained``.

        Raises:
            RunFolderError: It is broken, or its meta run is gone or another one.
        """
        folder = Path(folder)
        path = folder / ADAPTED_FILE
        described = read_described(path, FORMAT)
        try:
            meta_run, theta = folder / described["meta_run"], described["theta"]
            shots = described["support"] and Shots(**described["support"])
            tasks = {name: _task(value) for name, value in described["tasks"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{path} does not describe adapted tasks: {error!r}.") from error
        if not (meta_run / META_FILE).exists():
            raise RunFolderError(
                f"{str(folder)!r} was adapted from the meta run {os.path.normpath(meta_run)!r}, "
                "which is not there: put it back, or adapt again."
            )
        source = MetaPosterior.from_pretrained(
            meta_run, backbone=backbone, dtype=dtype, device=device
        )
        if source.fingerprint != theta:
            raise RunFolderError(
                f"{str(folder)!r} was adapted from another meta-fit than the one that now lies in "
                f"{os.path.normpath(meta_run)!r}: put that back, or adapt again."
            )
        return cls(folder, source, tasks, shots)


def write_adapted(
    source: MetaPosterior,
    meta_run: Path,
    tasks: Iterable[Task],
    out: Path,
    *,
    shots: Shots | None = None,
    progress: Callable[[int], object] = lambda tasks: None,
) -> None:
    """Adapt to tasks, a few at a time, and write their posteriors to a new folder.

    All of it is written or nothing: ``adapted.json``, and in ``tasks/`` a file a task.

    Args:
        source: Adapts.
        meta_run: Where it lies; remembered from ``out``, so that both can be moved together.
        tasks: Labelled tasks.
        out: A new folder.
        shots: How to draw the support; None for all rows.
        progress: Called with the number of tasks done, after each few.

    Raises:
        RunFolderError: ``out`` exists and is not empty.
        InputDataError: A task has fewer examples than asked for, or one has no label.
    """
    check_free(out)
    written: dict[str, AdaptedTask] = {}
    with atomic_folder(out) as unfinished:
        (unfinished / "tasks").mkdir()
        for group in _groups(tasks, shots):
            posteriors = source.adapt_all([support for _, support in group])
            for (task, support), posterior in zip(group, posteriors, strict=True):
                file = f"tasks/{len(written) + 1:05}-{_slug(task.name)}.safetensors"
                posterior.save_pretrained(unfinished / file)
                options = task.options if task.kind is Kind.FIXED_LABELS else None
                written[task.name] = AdaptedTask(file, len(support), options)
            progress(len(group))
        described = {
            "format": FORMAT,
            "meta_run": _relative(meta_run, out),
            "theta": source.fingerprint,
            "support": shots and asdict(shots),
            "tasks": {name: asdict(task) for name, task in written.items()},
        }
        text = json.dumps(described, indent=2, ensure_ascii=False)
        (unfinished / ADAPTED_FILE).write_text(text + "\n", encoding="utf-8")


def _groups(
    tasks: Iterable[Task], shots: Shots | None
) -> Iterator[list[tuple[Task, tuple[Example, ...]]]]:
    """Tasks with their supports, as many as can be adapted to side by side."""
    group: list[tuple[Task, tuple[Example, ...]]] = []
    for task in tasks:
        support = task.examples if shots is None else shots.of(task)
        most = max(1, len(support), *(len(others) for _, others in group))
        if group and most * (len(group) + 1) > ROWS_AT_ONCE:
            yield group
            group = []
        group.append((task, support))
    if group:
        yield group


def _task(described: Mapping[str, object]) -> AdaptedTask:
    fields = dict(described)
    options = fields.pop("options")
    return AdaptedTask(**fields, options=options and tuple(options))  # type: ignore[arg-type]


def _slug(name: str) -> str:
    """What of a name every file system takes; not unique."""
    return re.sub(r"[^\w-]+", "-", name, flags=re.ASCII)[:SLUG].strip("-")


def _relative(folder: Path, to: Path) -> str:
    """The way from one folder to another; on another drive there is none."""
    try:
        return Path(os.path.relpath(folder.resolve(), to.resolve())).as_posix()
    except ValueError:
        return str(folder.resolve())
