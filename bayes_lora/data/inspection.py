"""What `bayes-lora tasks SPEC` says: what is in there, and what is odd about it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from bayes_lora.data.partition import read_partition
from bayes_lora.data.spec import Found, Request, check_left_out, find
from bayes_lora.data.task import Kind, Task, TaskSplits
from bayes_lora.data.wording import counted

# The columns of splits stand in this order, then whatever other splits there are.
_SPLITS = ("train", "dev", "validation", "test")
_NONE = "-"
_LEGEND = (
    "options: how many; majority: share of the commonest label, or for multiple choice the "
    "accuracy of guessing (chance), in the split named; leaks: test rows that also stand in "
    "train or dev."
)
_SEEDS_LEGEND = (
    "train and dev: rows of one support seed, the lowest unless the SPEC says @SEED; leaks are "
    "looked for in all seeds."
)


def inspect(
    specs: str | Sequence[str],
    *,
    partition: Path | str | None = None,
    part: str | None = None,
    strict: bool = False,
) -> str:
    """Describe the tasks that the SPECs name: a table, a row a task, then all warnings.

    Args:
        specs: What the user gave on the command line, as in `read`.
        partition: A partition file, which says what tasks of a CrossFit folder to describe.
        part: The part of the partition; all parts if not given.
        strict: Whether it is an error, not a warning, if a task must be left out.

    Raises:
        ConfigError: A SPEC has no form there is, or the arguments do not go together.
        InputDataError: The data cannot be used, or no task is left.
    """
    plan = None if partition is None else read_partition(partition)
    results = find(specs, Request(partition=plan, part=part))
    tasks = [task for _, found in results for task in found.tasks]
    left_out = [warning for _, found in results for warning in found.left_out]
    check_left_out(tasks, left_out, strict=strict)
    lines = [*_table(tasks, _parts(found for _, found in results)), "", _total(tasks), _LEGEND]
    if any(task.seeds for task in tasks):
        lines.append(_SEEDS_LEGEND)
    general = (*left_out, *(plan.warnings if plan else ()))
    return "\n".join([*lines, *_warnings(tasks, general)])


def _parts(results: Iterable[Found]) -> dict[str, str]:
    """The parts each task is in, by its name; empty without a partition."""
    parts = {name: ", ".join(parts) for found in results for name, parts in found.parts.items()}
    return parts if any(parts.values()) else {}


def _table(tasks: Sequence[TaskSplits], parts: dict[str, str]) -> list[str]:
    there = dict.fromkeys(name for task in tasks for name in task.splits)
    splits = sorted(there, key=lambda name: _SPLITS.index(name) if name in _SPLITS else 9)
    header = ["task", *(["part"] if parts else []), "kind", "options", *splits]
    rows = [[*header, "seeds", "majority", "leaks"]]
    for task in tasks:
        sizes = [str(len(task.splits[name])) if name in task.splits else _NONE for name in splits]
        part = [parts.get(task.name, _NONE)] if parts else []
        rows.append([task.name, *part, str(task.kind), _number_of_options(task), *sizes])
        rows[-1] += [_seeds(task), _majority(task), _or_none(task.leaks)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _or_none(number: int | None) -> str:
    return _NONE if number is None else str(number)


def _seeds(task: TaskSplits) -> str:
    return ",".join(map(str, task.seeds)) or _NONE


def _number_of_options(task: TaskSplits) -> str:
    rows = (row for split in task.splits.values() for row in split.examples)
    numbers = {len(row.options) for row in rows}
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"


def _majority(task: TaskSplits) -> str:
    """What a guesser gets right who knows the frequencies, in the first split with labels."""
    first = [task.splits[name] for name in ("test", "train") if name in task.splits]
    for split in [*first, *task.splits.values()]:
        where = f" ({split.split})" if split.split else ""
        if task.kind is Kind.MULTIPLE_CHOICE:
            chance = sum(1 / len(row.options) for row in split.examples) / len(split)
            return f"{chance:.3f} chance{where}"
        share = _share(split)
        if share is not None:
            return f"{share:.3f}{where}"
    return _NONE


def _share(split: Task) -> float | None:
    labels = Counter(row.label for row in split.examples if row.label is not None)
    return max(labels.values()) / labels.total() if labels else None


def _total(tasks: Sequence[TaskSplits]) -> str:
    kinds = Counter(str(task.kind) for task in tasks)
    sizes: Counter[str] = Counter()
    for task in tasks:
        sizes.update({name: len(split) for name, split in task.splits.items()})
    of_kinds = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    rows = ", ".join(f"{name} {number}" for name, number in sizes.items())
    return f"total: {counted(len(tasks), 'task')} ({of_kinds}); rows: {rows}"


def _warnings(tasks: Sequence[TaskSplits], general: Sequence[str]) -> list[str]:
    lines = [f"  - {warning}" for warning in general]
    for task in tasks:
        own = [*task.warnings]
        own += [f"{name}: {text}" for name, split in task.splits.items() for text in split.warnings]
        lines += [f"  {task.name}", *(f"    - {text}" for text in own)] if own else []
    return ["", "warnings", *lines] if lines else ["", "no warnings"]
