"""The command line's SPEC: which reader reads it, and which split of which tasks."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bayes_lora.data.crossfit import UnusableTaskError, read_crossfit, task_folders
from bayes_lora.data.hub import read_hub
from bayes_lora.data.location import locate
from bayes_lora.data.partition import Partition, read_partition
from bayes_lora.data.tabular import read_tabular
from bayes_lora.data.task import Task, TaskSet, TaskSplits, with_options
from bayes_lora.data.unifiedqa import read_unifiedqa, unifiedqa_folders
from bayes_lora.data.wording import counted, listed
from bayes_lora.errors import ConfigError, InputDataError

FORMS = (
    "FILE.csv, FILE.jsonl, crossfit:DIR/TASK[@SEED][#SPLIT], crossfit:DIR[@SEED][#SPLIT], "
    "unifiedqa:DIR[#SPLIT], hub:NAME[/CONFIG][#SPLIT]"
)
# A csv or jsonl file has no splits: all its rows stand under this name.
_ROWS = "rows"
# The hub's word for dev.
_SPLIT_NAMES = {"dev": ("dev", "validation"), "validation": ("validation", "dev")}
# Two letters or more: one letter before a colon is a Windows drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+-]+):(.*)", re.DOTALL)


LabelSets = Sequence[Sequence[str]] | Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Request:
    """What a caller asks of every SPEC.

    Args:
        split: The split to read where the SPEC names none; None for all.
        options: The options of a fitted run, as in `read`.
        label_sets: The label sets of a run, as in `read`.
        partition: Which tasks to take from a collection.
        part: Which part of the partition; None for all.
    """

    split: str | None = None
    options: Sequence[str] | None = None
    label_sets: LabelSets | None = None
    partition: Partition | None = None
    part: str | None = None


@dataclass(frozen=True)
class Found:
    """What a SPEC names.

    Args:
        tasks: The tasks; of a hub task only the split that was asked for.
        split: The split that was asked for, if any.
        left_out: Which tasks are left out, and why.
        parts: The parts of the partition each task is in, by the task's name.
    """

    tasks: tuple[TaskSplits, ...]
    split: str | None = None
    left_out: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read(
    specs: str | Sequence[str],
    *,
    split: str | None = None,
    options: Sequence[str] | None = None,
    label_sets: LabelSets | None = None,
    partition: Path | str | None = None,
    part: str | None = None,
    strict: bool = False,
) -> TaskSet:
    """Read one split of every task that the SPECs name.

    A SPEC is a csv or jsonl file, `crossfit:DIR/TASK[@SEED][#SPLIT]`, `crossfit:DIR` for all
    tasks in a folder, `unifiedqa:DIR[#SPLIT]` or `hub:NAME[/CONFIG][#SPLIT]`. A file whose name
    begins like a scheme ("notes:2.csv") may be given as "./notes:2.csv".

    Args:
        specs: What the user gave on the command line.
        split: The split where a SPEC names none; csv and jsonl files have no splits.
        options: The options of a fitted run with a class head: all data must have them.
        label_sets: The label sets of a run whose scorer reads options, for files that list none,
            as in `read_tabular`; or, by the task's name, each task's own.
        partition: A partition file, which says what tasks of a CrossFit folder to read.
        part: The part of the partition; all parts if not given.
        strict: Whether it is an error, not a warning, if a task must be left out.

    Raises:
        ConfigError: A SPEC has no form there is, or the arguments do not go together.
        InputDataError: The data cannot be used, two tasks have one name, or no task is left.
    """
    if options is not None and label_sets is not None:
        raise ConfigError("options and label_sets are both given; give one of them")
    plan = None if partition is None else read_partition(partition)
    request = Request(split, options, label_sets, plan, part)
    tasks: list[Task] = []
    warnings: list[str] = []
    for spec, found in find(specs, request):
        chosen, left_out = _choose(spec, found)
        tasks += chosen if options is None else [with_options(task, options) for task in chosen]
        warnings += [*found.left_out, *left_out]
    check_left_out(tasks, warnings, strict=strict)
    return TaskSet(tuple(tasks), (*warnings, *(plan.warnings if plan else ())))


def find(specs: str | Sequence[str], request: Request) -> list[tuple[str, Found]]:
    """Find the tasks of all SPECs, each SPEC with what it names.

    Raises:
        ConfigError: A SPEC has no form there is, or the arguments do not go together.
        InputDataError: The data cannot be used, or two tasks have one name.
    """
    specs = [specs] if isinstance(specs, str) else list(specs)
    if not specs:
        raise ConfigError(f"no data is given; the forms are {FORMS}")
    if request.part is not None and request.partition is None:
        raise ConfigError(f"part {request.part!r} is given without a partition; give both")
    results = [(spec, _find(spec, request)) for spec in specs]
    names = [task.name for _, found in results for task in found.tasks]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise InputDataError(
            f"two tasks are named {twice[0]!r}; leave one out, or rename its file or folder"
        )
    return results


def check_left_out(tasks: Sequence[object], warnings: Sequence[str], *, strict: bool) -> None:
    """Raise InputDataError if no task is left, or one is left out where none may be."""
    if not tasks:
        raise InputDataError(f"no task is left to read: {'; '.join(warnings)}")
    if strict and warnings:
        raise InputDataError(f"{'; '.join(warnings)}; add them, or do without --strict")


def _find(spec: str, request: Request) -> Found:
    match = _SCHEME.fullmatch(spec)
    scheme = match[1].lower() if match else ""
    if request.partition and scheme != "crossfit":
        raise ConfigError(f"{spec!r}: a partition goes with crossfit:DIR only; leave it out")
    if match and match[2] and scheme in _SCHEMES:
        return _SCHEMES[scheme](match[2], request)
    if not _is_file(spec):
        raise ConfigError(f"{spec!r}: cannot be read; the forms supported are {FORMS}")
    label_sets = _label_sets(Path(spec).stem, request.label_sets)
    task = read_tabular(spec, options=request.options, label_sets=label_sets)
    return Found((TaskSplits(task.name, task.kind, {_ROWS: task}),), _ROWS)


def file_tasks(specs: Iterable[str]) -> list[str]:
    """Name the tasks of those SPECs that are files of one's own, before they are read."""
    return [Path(spec).stem for spec in specs if not _SCHEME.fullmatch(spec) and _is_file(spec)]


def _is_file(spec: str) -> bool:
    return Path(spec).suffix.lower() in (".csv", ".jsonl")


def _label_sets(name: str, label_sets: LabelSets | None) -> Sequence[Sequence[str]] | None:
    """The label sets a task may have: its own where they are given by name."""
    if not isinstance(label_sets, Mapping):
        return label_sets
    return [label_sets[name]] if name in label_sets else list(label_sets.values())


def _crossfit(text: str, request: Request) -> Found:
    location = locate(text, seeds=True)
    split = location.split or request.split
    path = Path(location.path)
    folders = task_folders(path)
    if folders != [path]:
        by_name = {folder.name: folder for folder in folders}
        return replace(_collection(path, by_name, location.seed, request), split=split)
    if request.partition:
        raise ConfigError(
            f"{'crossfit:' + text!r} is one task; a partition goes with a folder of tasks"
        )
    return Found((read_crossfit(path, location.seed),), split)


def _collection(
    path: Path, folders: Mapping[str, Path], seed: int | None, request: Request
) -> Found:
    """The tasks in a folder, or those that the partition names."""
    wanted: Mapping[str, tuple[str, ...]] = dict.fromkeys(folders, ())
    left_out = []
    if request.partition:
        wanted = request.partition.tasks(request.part)
        absent = [name for name in wanted if name not in folders]
        if absent:
            left_out = [
                f"{counted(len(absent), 'task')} of {request.partition.name} left out, not in "
                f"{str(path)!r}: {', '.join(absent)}"
            ]
    tasks = {}
    for name in wanted:
        try:
            if name in folders:
                tasks[name] = read_crossfit(folders[name], seed)
        except UnusableTaskError as error:
            left_out.append(f"left out: {error}")
    parts = {task.name: wanted[name] for name, task in tasks.items()}
    return Found(tuple(tasks.values()), None, tuple(left_out), parts)


def _unifiedqa(text: str, request: Request) -> Found:
    location = locate(text)
    folders = unifiedqa_folders(Path(location.path))
    tasks = tuple(map(read_unifiedqa, folders))
    return Found(tasks, location.split or request.split)


def _hub(text: str, request: Request) -> Found:
    location = locate(text)
    split = location.split or request.split
    return Found((read_hub(location.path, split and _split_names(split)),), split)


_SCHEMES: dict[str, Callable[[str, Request], Found]] = {
    "crossfit": _crossfit,
    "unifiedqa": _unifiedqa,
    "hub": _hub,
}


def _split_names(split: str) -> tuple[str, ...]:
    """The names a split may have in the data, the likeliest first."""
    return _SPLIT_NAMES.get(split, (split,))


def _choose(spec: str, found: Found) -> tuple[list[Task], list[str]]:
    """The split asked for of every task that has it, and a warning about those that do not."""
    there = list(dict.fromkeys(name for task in found.tasks for name in task.splits))
    if found.split is None:
        raise ConfigError(f"{spec!r}: name a split, such as {spec + '#train'!r}")
    names = _split_names(found.split)
    if found.tasks and not set(names) & set(there):
        raise InputDataError(
            f"{spec!r}: there is no split {found.split!r}; the splits are {listed(there)}"
        )
    chosen = []
    without = []
    for task in found.tasks:
        name = next((name for name in names if name in task.splits), None)
        if name is None:
            without.append(task.name)
        else:
            rows = task.splits[name]
            chosen.append(replace(rows, warnings=(*rows.warnings, *task.warnings)))
    left_out = f"{counted(len(without), 'task')} left out, without a split {found.split!r}: "
    return chosen, [left_out + ", ".join(without)] if without else []
