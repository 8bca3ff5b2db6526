"""Attributes as groups of rows: which levels there are, and whether a deviation can be learned.

An attribute is a column beside text and label, such as the user who wrote a review; a level is
one of its values. A row without a value belongs to no level that is known.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bayes_lora.data.task import Example, Task
from bayes_lora.data.wording import counted, listed, meant
from bayes_lora.errors import ConfigError, InputDataError

# What table programs write where there is no value, in lower case.
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})


@dataclass(frozen=True)
class Levels:
    """The levels of one attribute.

    Args:
        attribute: The column's name.
        names: The distinct values, sorted, without missing ones.
        counts: How many rows each of them has, in the same order.
    """

    attribute: str
    names: tuple[str, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """The position of each level in `names`."""
        return {name: position for position, name in enumerate(self.names)}

    def count(self, name: str) -> int:
        """How many rows a level has; none if it is not there."""
        return self.counts[self.index[name]] if name in self.index else 0


def level_of(example: Example, attribute: str) -> str:
    """The level that a row belongs to, without white space around it.

    Returns:
        The name; "" where the value is missing, or the row has no such column.
    """
    value = example.attributes.get(attribute, "").strip()
    return "" if value.lower() in MISSING else value


def levels_of(tasks: Iterable[Task], attribute: str) -> Levels:
    """Find the levels that occur in some tasks, all of them in one namespace.

    Rows without a value are not counted; there may be no level at all (see `check_attributes`).
    """
    rows = Counter(level_of(example, attribute) for task in tasks for example in task.examples)
    names = tuple(sorted(rows.keys() - {""}))
    return Levels(attribute, names, tuple(rows[name] for name in names))


def check_attributes(tasks: Iterable[Task], attributes: Sequence[str]) -> tuple[str, ...]:
    """Check, before a fit, that the deviations of the attributes' levels can be learned.

    Args:
        tasks: All rows of the fit.
        attributes: The columns to learn deviations for.

    Returns:
        Warnings: rows without a value, attributes whose every level has one row, and attributes
        that name the same groups.

    Raises:
        ConfigError: An attribute is named twice.
        InputDataError: No task has such a column, or it has fewer than two levels.
    """
    tasks = tuple(tasks)
    twice = [name for name, number in Counter(attributes).items() if number > 1]
    if twice:
        raise ConfigError(f"attribute {twice[0]!r} is named twice; name it once")
    _check_columns(tasks, attributes)
    warnings = [warning for name in attributes for warning in _check(tasks, name)]
    return (*warnings, *_check_pairs(tasks, attributes))


def _check_columns(tasks: tuple[Task, ...], attributes: Sequence[str]) -> None:
    columns = list(dict.fromkeys(column for task in tasks for column in task.attributes))
    for name in attributes:
        if name not in columns:
            found = f"the attribute columns are {listed(columns)}" if columns else "there are none"
            raise InputDataError(
                f"{_where(tasks)}: there is no attribute column {name!r}"
                f"{meant(name, columns)}; {found}"
            )


def _where(tasks: Sequence[Task]) -> str:
    """The tasks' names; of many, the first three."""
    names = ", ".join(task.name for task in tasks[:3]) or "no task is given"
    return f"{names} and {len(tasks) - 3} more" if len(tasks) > 3 else names


def _check(tasks: tuple[Task, ...], attribute: str) -> list[str]:
    """The warnings about one attribute, whose column is there."""
    levels = levels_of(tasks, attribute)
    _check_several(levels, _where(tasks))
    examples = [example for task in tasks for example in task.examples]
    missing = [example for example in examples if not level_of(example, attribute)]
    warnings = [_missing_warning(attribute, missing)] if missing else []
    if all(count == 1 for count in levels.counts):
        warnings.append(
            f"attribute {attribute!r}: every level has one row, so that hardly more than the "
            "spread of the deviations can be learned, and no level is seen again unless its "
            "name recurs"
        )
    return warnings


def _check_pairs(tasks: tuple[Task, ...], attributes: Sequence[str]) -> list[str]:
    """The warnings about attributes that cannot be told apart."""
    rows = [example for task in tasks for example in task.examples]
    columns = {name: [level_of(row, name) for row in rows] for name in attributes}
    return [
        f"attributes {one!r} and {other!r} name the same groups of rows, so that their deviations "
        "cannot be told apart and each gets a part of them; leave one out"
        for one, other in itertools.combinations(attributes, 2)
        if len(set(zip(columns[one], columns[other], strict=True)))
        == len(set(columns[one]))
        == len(set(columns[other]))
    ]


def _check_several(levels: Levels, where: str) -> None:
    """Raise InputDataError if there are fewer than two levels."""
    if not levels.names:
        raise InputDataError(
            f"{where}: attribute {levels.attribute!r} has no value in any row; fill it in or "
            "leave it out"
        )
    if len(levels) == 1:
        raise InputDataError(
            f"{where}: attribute {levels.attribute!r} is {levels.names[0]!r} wherever it has a "
            "value: a deviation from the population cannot be told from the population; leave "
            "it out"
        )


def _missing_warning(attribute: str, missing: Sequence[Example]) -> str:
    # "NA" may be Namibia: what was taken for a missing value is said.
    spelt = {example.attributes.get(attribute, "").strip() for example in missing} - {""}
    such_as = f" (taken for none: {listed(sorted(spelt))})" if spelt else ""
    has = "has" if len(missing) == 1 else "have"
    return (
        f"attribute {attribute!r}: {counted(len(missing), 'row')} {has} no value{such_as}, "
        f"the first is {missing[0].where}: an unknown level, fitted as the population "
        "and predicted as --unknown says"
    )
