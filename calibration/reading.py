"""Read predictions.jsonl: one JSON object per row, with options, probabilities and the label.

Required in every row: `options` (list of strings), `probabilities` (one number per option) and
`label` (one of the options); the options may differ between rows. Used if there: `input` (string),
`task` (string, in every row or in none), `num_draws` (int, the same in every row),
`mutual_information` (nats), `support_size` (int from 0 up, in every row or in none: how many
labelled examples the task's posterior was adapted on, in all or a class, but counted alike in every
row), `support_seed` (int: which sample of them) and `level_counts` (object from attribute, such as
"user_id", to int from 0 up, with the same attributes in every row or in none: how many training
rows had this row's level, such as its user; 0: unseen). One file is one method; it may hold the
same questions under several support sizes and seeds. Other keys are left alone.
"""

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from calibration.errors import InvalidPredictionsError, PredictionsFileError
from calibration.validation import Predictions, validate

Key = TypeVar("Key", bound=Hashable)


class Support(NamedTuple):
    """The support sample behind a row: how many labelled examples, and which draw of them."""

    size: int
    seed: int | None


@dataclass(frozen=True)
class Row:
    """One row of a predictions file.

    Attributes:
        line: Its line in the file, from 1.
        input: The text that was classified, if the file has it.
        task: The name of the task it belongs to, if the file has it.
        options: What there was to choose from.
        probabilities: One number per option.
        label: Index of the true option, or None if unknown.
        num_draws: Posterior draws averaged over, if the file has it; 0: the posterior mean alone.
        mutual_information: In nats, if the file has it.
        support: What the posterior of its task was adapted on, if the file has it.
        level_counts: By attribute, how many training rows had its level, if the file has it.
    """

    line: int
    input: str | None
    task: str | None
    options: tuple[str, ...]
    probabilities: tuple[float, ...]
    label: int | None
    num_draws: int | None
    mutual_information: float | None
    support: Support | None
    level_counts: Mapping[str, int] | None


@dataclass(frozen=True)
class PredictionsFile:
    """A predictions file whose every row has been checked.

    Attributes:
        path: Where it was read from.
        rows: The rows [n] in the file's order.
        predictions: The same rows as arrays.
        num_draws: Posterior draws behind each row, if the file has it.
    """

    path: Path
    rows: tuple[Row, ...]
    predictions: Predictions
    num_draws: int | None

    def split(self, key: Callable[[Row], Key]) -> dict[Key, "PredictionsFile"]:
        """The rows of each key as a file of their own, keys in order of first appearance."""
        places: dict[Key, list[int]] = {}
        for place, row in enumerate(self.rows):
            places.setdefault(key(row), []).append(place)
        return {
            name: replace(
                self,
                rows=tuple(self.rows[place] for place in own),
                predictions=self.predictions.take(np.array(own)),
            )
            for name, own in places.items()
        }


class _RowError(Exception):
    """What is wrong with the row being read; the file and line are added further up."""


def read_predictions(path: Path) -> PredictionsFile:
    """Read and check a labelled predictions file.

    Args:
        path: A JSON-lines file in UTF-8; blank lines are skipped.

    Returns:
        The rows, and the same as checked arrays.

    Raises:
        PredictionsFileError: For a file that cannot be read, is empty, or has a row that is
            broken, unlabelled, no probability distribution or, unlike others, without a task,
            support size, level count or (unlike others of its task and size) support seed; it
            names the file and the line.
    """
    rows = _read_rows(path)
    labels = _labels(path, rows)
    _check_all_or_none(path, rows, "task", lambda row: row.task)
    _check_all_or_none(path, rows, "support_size", lambda row: row.support)
    _check_seeds(path, rows)
    _check_level_counts(path, rows)
    for row in rows:
        if row.num_draws != rows[0].num_draws:
            raise PredictionsFileError(
                f"{path}, line {row.line}: num_draws is {row.num_draws} but {rows[0].num_draws} "
                f"on line {rows[0].line}; keep the predictions of each run in a file of its own"
            )
    try:
        predictions = validate([row.probabilities for row in rows], labels)
    except InvalidPredictionsError as error:
        where = f"{path}" if error.row is None else f"{path}, line {rows[error.row].line}"
        raise PredictionsFileError(f"{where}: {error.problem}") from error
    return PredictionsFile(path, tuple(rows), predictions, rows[0].num_draws)


def _read_rows(path: Path) -> list[Row]:
    try:
        # Split at \n alone: str.splitlines would cut a text at U+2028, which JSON leaves as it is.
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise PredictionsFileError(
            f"{path}: cannot be read ({error.strerror}); give a predictions.jsonl file"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(_parse(line, number))
            except _RowError as error:
                raise PredictionsFileError(f"{path}, line {number}: {error}") from error
    if not rows:
        raise PredictionsFileError(f"{path}: is empty; a report needs at least one prediction")
    return rows


def _labels(path: Path, rows: list[Row]) -> list[int]:
    """The label of each row; that none is missing is checked here."""
    missing = [row.line for row in rows if row.label is None]
    if len(missing) == len(rows):
        raise PredictionsFileError(
            f"{path}: no row has a label; accuracy needs labels, so predict on labelled data"
        )
    if missing:
        raise PredictionsFileError(
            f"{path}, line {missing[0]}: has no label, unlike other rows ({len(missing)} of "
            f"{len(rows)} have none); label these rows or take them out"
        )
    return [row.label for row in rows if row.label is not None]


def _check_all_or_none(
    path: Path, rows: Sequence[Row], key: str, value: Callable[[Row], Any], of: str = ""
) -> None:
    """All of these rows have the key or none has: one without would count nowhere."""
    for row in rows:
        if (value(row) is None) != (value(rows[0]) is None):
            here, there = ("no", "one") if value(row) is None else ("a", "none")
            raise PredictionsFileError(
                f'{path}, line {row.line}: has {here} "{key}", but line {rows[0].line}{of} has '
                f"{there}; give one in every row{of} or in none"
            )


def _check_seeds(path: Path, rows: Sequence[Row]) -> None:
    """Sizes may differ in it: there is but one sample of 0 examples, which needs no seed."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.task, row.support and row.support.size), []).append(row)
    for own in groups.values():
        _check_all_or_none(
            path,
            own,
            "support_seed",
            lambda row: row.support and row.support.seed,
            " of this task and support size",
        )


def _check_level_counts(path: Path, rows: Sequence[Row]) -> None:
    """Every row counts the same attributes."""
    _check_all_or_none(path, rows, "level_counts", lambda row: row.level_counts)
    for attribute in dict.fromkeys(name for row in rows for name in row.level_counts or ()):
        key = f"level_counts[{attribute!r:.60}]"
        _check_all_or_none(path, rows, key, partial(_level_count, attribute))


def _level_count(attribute: str, row: Row) -> int | None:
    return None if row.level_counts is None else row.level_counts.get(attribute)


def _parse(line: bytes, number: int) -> Row:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _RowError(f"is not UTF-8 text (byte {error.start + 1} of the line)") from error
    except (ValueError, RecursionError) as error:
        raise _RowError(f"is not valid JSON ({error}); write one object per line") from error
    if not isinstance(record, dict):
        raise _RowError(f"is a JSON {type(record).__name__}, not an object with named values")
    options = _options(record)
    return Row(
        line=number,
        input=_optional_text(record, "input"),
        task=_optional_text(record, "task"),
        options=options,
        probabilities=_probabilities(record, len(options)),
        label=_label(record, options),
        num_draws=_optional_count(record, "num_draws"),
        mutual_information=_optional_number(record, "mutual_information"),
        support=_support(record),
        level_counts=_level_counts(record),
    )


def _list(record: dict[str, Any], key: str) -> list[Any]:
    if key not in record:
        raise _RowError(f'has no "{key}"; every row needs options and probabilities')
    if not isinstance(record[key], list):
        raise _RowError(f'"{key}" must be a list, not {record[key]!r:.60}')
    return record[key]


def _options(record: dict[str, Any]) -> tuple[str, ...]:
    options = _list(record, "options")
    for option in options:
        if not isinstance(option, str):
            raise _RowError(f'"options" must be strings, but one is {option!r:.60}')
    if len(set(options)) < len(options):
        raise _RowError('"options" has the same option twice, so the label would be ambiguous')
    return tuple(options)


def _probabilities(record: dict[str, Any], count: int) -> tuple[float, ...]:
    values = _list(record, "probabilities")
    if len(values) != count:
        raise _RowError(f"has {count} options but {len(values)} probabilities; give one each")
    return tuple(_number(value, "probabilities") for value in values)


def _label(record: dict[str, Any], options: tuple[str, ...]) -> int | None:
    label = _optional_text(record, "label")
    if label is None:
        return None
    if label not in options:
        raise _RowError(f"label {label!r:.60} is not one of its options")
    return options.index(label)


def _support(record: dict[str, Any]) -> Support | None:
    size = _optional_count(record, "support_size")
    seed = record.get("support_seed")
    if seed is not None and not _is_whole(seed):
        raise _RowError(f'"support_seed" must be a whole number, not {seed!r:.60}')
    if size is None and seed is not None:
        raise _RowError('has a "support_seed" but no "support_size"; give the size too')
    return None if size is None else Support(size, seed)


def _level_counts(record: dict[str, Any]) -> dict[str, int] | None:
    counts = record.get("level_counts")
    if counts is None:
        return None
    if not isinstance(counts, dict):
        raise _RowError(
            f'"level_counts" must be an object of counts by attribute, not {counts!r:.60}'
        )
    return {name: _count(value, f"level_counts[{name!r:.60}]") for name, value in counts.items()}


def _optional_count(record: dict[str, Any], key: str) -> int | None:
    return None if record.get(key) is None else _count(record[key], key)


def _count(value: Any, key: str) -> int:
    if not _is_whole(value) or value < 0:
        raise _RowError(f'"{key}" must be a whole number from 0 up, not {value!r:.60}')
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _optional_text(record: dict[str, Any], key: str) -> str | None:
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise _RowError(f'"{key}" must be a string, not {value!r:.60}')
    return value


def _optional_number(record: dict[str, Any], key: str) -> float | None:
    return None if record.get(key) is None else _number(record[key], key)


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _RowError(f'"{key}" must be a number, not {value!r:.60}')
    if not abs(value) < math.inf:
        raise _RowError(f'"{key}" holds {value}; NaN and infinity say that the model broke down')
    try:
        return float(value)
    except OverflowError as error:
        raise _RowError(f'"{key}" holds a number too large to be one') from error
