"""What the readers of published data sets share: rows with options, made tidy, become tasks.

A user's own file must be right; a published one cannot be corrected. So equal options of a row
are merged and rows that cannot be used are dropped, and a warning counts and names them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from bayes_lora.data.records import Value
from bayes_lora.data.task import Example, Kind, Task
from bayes_lora.data.wording import counted, places
from bayes_lora.errors import InputDataError


class Sheet(NamedTuple):
    """Which rows of a task: a split, of a support seed where there are seeds."""

    split: str
    seed: int | None = None


@dataclass(frozen=True)
class Row:
    """One row as it was published, but for white space.

    Args:
        where: Where it stands, as error messages say it.
        input: What the model reads.
        output: The text of the right option; None where it is not known.
        options: The answers to choose from, maybe repeated.
        doubtful: Whether the options may have been cut wrongly out of the text.
        attributes: What else is said of it.
    """

    where: str
    input: str
    output: str | None
    options: tuple[str, ...]
    doubtful: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


def collapse(text: str) -> str:
    """Make every run of white space one space, as CrossFit's own files have it."""
    return " ".join(text.split())


def published_text(value: Value, name: str, where: str) -> str:
    """The text of a field, its white space collapsed.

    Raises:
        InputDataError: It is a list, or empty.
    """
    if isinstance(value, list):
        raise InputDataError(f"{where}: {name!r} is a list; give a text")
    if not collapse(value):
        raise InputDataError(f"{where}: {name!r} is missing or empty; fill it in")
    return collapse(value)


def build(
    name: str,
    sheets: Mapping[Sheet, Sequence[Row]],
    *,
    kind: Kind | None = None,
    order: Sequence[str] | None = None,
) -> tuple[Kind, dict[Sheet, Task]]:
    """Make the tasks of all sheets.

    Args:
        name: The task's name.
        sheets: All the rows there are, since all of them decide the kind of the task.
        kind: The kind of the task, where it is known: fixed labels, if not given, where all rows
            share one set of options, and multiple choice else.
        order: The order of fixed labels; alphabetical if not given.

    Raises:
        InputDataError: A sheet has no row that can be used.
    """
    tidied = {sheet: _tidy(rows) for sheet, rows in sheets.items()}
    for sheet, (rows, warnings) in tidied.items():
        if not rows:
            why = "; ".join(warnings) or "there is none"
            raise InputDataError(f"{name}, {sheet.split}: no row can be used: {why}")
    found = {frozenset(row.options) for rows, _ in tidied.values() for row in rows}
    kind = kind or (Kind.FIXED_LABELS if len(found) == 1 else Kind.MULTIPLE_CHOICE)
    fixed = tuple(order or sorted(found.pop())) if kind is Kind.FIXED_LABELS else None
    tasks = {
        sheet: Task(name, _examples(rows, fixed), kind, sheet.split, warnings)
        for sheet, (rows, warnings) in tidied.items()
    }
    return kind, tasks


def _examples(rows: Sequence[Row], fixed: tuple[str, ...] | None) -> tuple[Example, ...]:
    examples = []
    for row in rows:
        options = fixed or row.options
        label = None if row.output is None else options.index(row.output)
        examples.append(
            Example(
                input=row.input,
                options=options,
                label=label,
                attributes=row.attributes,
                where=row.where,
            )
        )
    return tuple(examples)


def _tidy(rows: Sequence[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows that can be used, and warnings about what was done."""
    kept = []
    repaired: list[str] = []
    too_few: list[str] = []
    outside: list[str] = []
    for row in rows:
        options = tuple(dict.fromkeys(row.options))
        if len(options) < 2:
            too_few.append(row.where)
        elif row.output is not None and row.output not in options:
            outside.append(row.where)
        else:
            if len(options) < len(row.options):
                repaired.append(row.where)
            kept.append(replace(row, options=options))
    doubtful = [row.where for row in kept if row.doubtful]
    warnings = (
        _warning(repaired, "with equal options, which are merged"),
        _warning(too_few, "dropped, with fewer than two options that differ"),
        _warning(outside, "dropped, whose answer is not among the options"),
        _warning(doubtful, "with a letter like (A) that may or may not begin an option"),
    )
    return kept, tuple(warning for warning in warnings if warning)


def _warning(wheres: list[str], what: str) -> str:
    return f"{counted(len(wheres), 'row')} {what}: {places(wheres)}" if wheres else ""
