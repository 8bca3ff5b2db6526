"""Tasks in csv and jsonl files.

The columns are `text` and `label`, or `input` and `output`; a column `options` may list the
row's options (a list in jsonl, a JSON list in csv), and every other column becomes an attribute.
Texts, labels and options lose the white space around them.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bayes_lora.data.records import Record, parse_json, read_records
from bayes_lora.data.task import Example, Kind, Task, reordered
from bayes_lora.data.wording import listed
from bayes_lora.errors import ConfigError, InputDataError
from bayes_lora.files import atomic_text

_OPTIONS = "options"


@dataclass(frozen=True)
class _Layout:
    """Which columns hold the text and the label."""

    text: str
    label: str


_LAYOUTS = (_Layout("text", "label"), _Layout("input", "output"))
_TAKEN = ("text", "label", "input", _OPTIONS)  # no attribute can have such a name beside a text


def read_tabular(
    path: str | Path,
    *,
    options: Sequence[str] | None = None,
    label_sets: Sequence[Sequence[str]] | None = None,
) -> Task:
    """Read a task from a .csv or .jsonl file.

    Without an `options` column, the options are those given, or else the sorted set of labels
    in the file. With both, each row's options must be the given ones, and take their order.
    A JSON label that is a number, true or false is taken as it is written: `1` is "1".

    Args:
        path: The file, UTF-8, with or without a byte order mark.
        options: The options of a fitted run. With them, rows may lack a label.
        label_sets: The label sets that a model was fitted to which reads options and so can
            answer with others too; none for a pretrained one. Used for a file without an
            `options` column: the least of them that has all its labels, or else, with a warning,
            the labels that occur in it. Rows may lack a label.

    Raises:
        ConfigError: Both kinds of options are given.
        InputDataError: The file cannot be read, a column or a value is missing, a label is not
            among the options, or the options are fewer than two or repeated.
    """
    if options is not None and label_sets is not None:
        raise ConfigError("options and label_sets are both given; give one of them")
    path = Path(path)
    records = read_records(path)
    columns = list(dict.fromkeys(column for record in records for column in record.fields))
    label_needed = options is None and label_sets is None
    layout = _layout(columns, path.name, label_needed=label_needed)
    shared = None
    warnings: tuple[str, ...] = ()
    if options is not None:
        shared = _checked_options(options, "the options given")
    elif _OPTIONS not in columns:
        shared, warnings = _label_set(records, layout, path.name, label_sets)
    examples = [_example(record, layout, shared, label_needed) for record in records]
    kind, examples = _one_order(examples)
    return Task(path.stem, tuple(examples), kind, warnings=warnings)


def write_csv(task: Task, path: str | Path) -> None:
    """Write the texts, labels and attributes of a task to a csv file, whole or not at all.

    An example without a label, or without an attribute that another has, gets an empty one;
    options are not written.

    Raises:
        ConfigError: The file cannot be written there, or an attribute has the name of another
            column.
    """
    taken = [name for name in task.attributes if name in _TAKEN]
    if taken:
        raise ConfigError(
            f"{task.name}: the attribute {taken[0]!r} would be read back as another column; "
            "rename it"
        )
    with atomic_text(path) as file:
        # Quoting all, because a bare carriage return would otherwise end the row.
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["text", "label", *task.attributes])
        for example in task.examples:
            label = "" if example.label is None else example.options[example.label]
            own = [example.attributes.get(name, "") for name in task.attributes]
            writer.writerow([example.input, label, *own])


def _layout(columns: list[str], name: str, *, label_needed: bool) -> _Layout:
    found = [layout for layout in _LAYOUTS if layout.text in columns]
    if not found:
        raise InputDataError(
            f"{name}: there is no column 'text' (or 'input'); the columns are {listed(columns)}"
        )
    if len(found) > 1:
        raise InputDataError(f"{name}: there are both 'text' and 'input'; rename one of them")
    (layout,) = found
    if label_needed and layout.label not in columns:
        raise InputDataError(
            f"{name}: there is no column {layout.label!r} beside {layout.text!r}; "
            f"the columns are {listed(columns)}"
        )
    return layout


def _label_set(
    records: list[Record],
    layout: _Layout,
    name: str,
    label_sets: Sequence[Sequence[str]] | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of a file that lists none, and a warning if they are a guess."""
    if label_sets is None:
        return _labels_found(records, layout, name), ()
    known = [_checked_options(labels, "the options given") for labels in label_sets]
    found = {_label(record, layout, needed=False) for record in records} - {""}
    covering = sorted((labels for labels in known if found <= set(labels)), key=len)
    if covering and (found or len(known) == 1):
        return covering[0], _guessed(covering[0], found) if len(known) > 1 else ()
    if not found:
        raise InputDataError(
            f"{name}: there are neither labels nor a column 'options', so that there is nothing "
            "to choose from; add such a column"
        )
    own = _labels_found(records, layout, name, needed=False)
    of_run = f", not those of the run, {'; '.join(map(listed, known))}" if known else ""
    return own, (f"the options are the labels that occur in the file, {listed(own)}{of_run}",)


def _guessed(labels: tuple[str, ...], found: set[str]) -> tuple[str, ...]:
    """Warn of options that one of several tasks of a run has, and the file does not."""
    more = [label for label in labels if label not in found]
    if not more:
        return ()
    return (
        f"the options are taken to be those of a task of the run, {listed(labels)}; "
        f"{listed(more)} occurs nowhere in the file: if that is wrong, add a column 'options'",
    )


def _labels_found(
    records: list[Record], layout: _Layout, name: str, *, needed: bool = True
) -> tuple[str, ...]:
    labels = sorted({_label(record, layout, needed=needed) for record in records} - {""})
    if len(labels) == 1:
        raise InputDataError(
            f"{name}: one class only, all {len(records)} rows are labelled "
            f"{listed(labels)}; add rows of another class"
        )
    return tuple(labels)


def _example(
    record: Record, layout: _Layout, shared: tuple[str, ...] | None, label_needed: bool
) -> Example:
    text = _text(record, layout.text)
    if not text:
        raise InputDataError(f"{record.where}: {layout.text!r} is empty; fill it in or remove it")
    options = _row_options(record, shared)
    label = _label(record, layout, needed=label_needed)
    if label and label not in options:
        raise InputDataError(
            f"{record.where}: label {label!r} is not among the options {listed(options)}; "
            "correct it or remove the row"
        )
    own = (layout.text, layout.label, _OPTIONS)
    return Example(
        input=text,
        options=options,
        label=options.index(label) if label else None,
        attributes={name: _text(record, name) for name in record.fields if name not in own},
        where=record.where,
    )


def _one_order(examples: list[Example]) -> tuple[Kind, list[Example]]:
    """The kind of the task; rows with one set of options get it in the first row's order."""
    if len({frozenset(example.options) for example in examples}) > 1:
        return Kind.MULTIPLE_CHOICE, examples
    order = examples[0].options
    return Kind.FIXED_LABELS, [reordered(example, order) for example in examples]


def _text(record: Record, column: str) -> str:
    value = record.fields.get(column, "")
    if isinstance(value, list):
        raise InputDataError(f"{record.where}: {column!r} is a list; give text or a number")
    return value.strip()


def _label(record: Record, layout: _Layout, *, needed: bool) -> str:
    """The row's label; empty where it has none and none is needed."""
    label = _text(record, layout.label)
    if needed and not label:
        raise InputDataError(f"{record.where}: {layout.label!r} is empty; fill it in")
    return label


def _row_options(record: Record, shared: tuple[str, ...] | None) -> tuple[str, ...]:
    value = record.fields.get(_OPTIONS)
    if value is None and shared is not None:
        return shared
    if isinstance(value, str):  # csv has no lists
        value = parse_json(value, f"{record.where}, 'options'")
    if not isinstance(value, list):
        raise InputDataError(f"{record.where}: 'options' is not a JSON list of strings; give one")
    options = _checked_options(value, record.where)
    if shared is None:
        return options
    if set(options) != set(shared):
        raise InputDataError(
            f"{record.where}: the options {listed(options)} are not the ones given, "
            f"{listed(shared)}; correct them or leave the column out"
        )
    return shared


def _checked_options(options: Sequence[str], where: str) -> tuple[str, ...]:
    stripped = tuple(option.strip() for option in options)
    if len(stripped) < 2:
        raise InputDataError(f"{where}: there must be two options or more, not {len(stripped)}")
    if "" in stripped:
        raise InputDataError(f"{where}: an option is empty; name it or remove it")
    if len(set(stripped)) < len(stripped):
        raise InputDataError(f"{where}: an option is repeated in {listed(stripped)}; remove it")
    return stripped
