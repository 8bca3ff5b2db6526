"""Tasks of the Hugging Face hub, or of a local folder, through the `datasets` library.

The text stands in a column `text`, `sentence`, `input` or `question`, the label in `label`,
`output` or `answer`, a row's own options in `options` or `choices`; columns of other texts and
numbers become attributes, as the library types them. A label is an option's text; a class label,
or a whole number beside a row's own options, counts the options from 0 and is -1 where unknown.
Labels that are -1 in all of a split are unknown there, whatever their type.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_lora.data.location import is_folder
from bayes_lora.data.oddities import count_leaks, oddities
from bayes_lora.data.published import Row, Sheet, build, collapse, published_text
from bayes_lora.data.task import TaskSplits
from bayes_lora.data.wording import listed
from bayes_lora.errors import ConfigError, InputDataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

_TEXT = ("text", "sentence", "input", "question")
_LABEL = ("label", "output", "answer")
_OPTIONS = ("options", "choices")
_UNKNOWN = -1


@dataclass(frozen=True)
class _Columns:
    """Which columns hold what, and the names of the classes if the label is a class label."""

    text: str
    label: str
    options: str | None
    attributes: tuple[str, ...]
    classes: tuple[str, ...] | None


def read_hub(name: str, splits: Sequence[str] | None = None) -> TaskSplits:
    """Read a task through the `datasets` library; no code of the data set's own is ever run.

    Args:
        name: NAME or OWNER/NAME with /CONFIG behind it if need be, or a local folder, written
            by `save_to_disk` or with csv, jsonl or parquet files in it.
        splits: The names of the split to read, of which the first that exists is read; all
            splits if not given.

    Raises:
        ConfigError: `datasets` is not installed, or the name cannot be one.
        InputDataError: The library cannot read it, there is no such split, no column of texts
            or labels, or a row is malformed.
    """
    task = name.rstrip("/").rpartition("/")[2]
    with _quiet_library(), tempfile.TemporaryDirectory() as folder:
        there = _load(name, folder)
        columns = _columns(there, name)
        wanted = list(there) if splits is None else [key for key in splits if key in there][:1]
        if not wanted:
            raise InputDataError(
                f"'hub:{name}': there is no split {splits[0] if splits else ''!r}; the splits "
                f"are {listed(list(there))}"
            )
        fixed = _fixed_options(there, columns, name)
        values = {key: _values(there[key], columns, name) for key in wanted}
    sheets = {
        Sheet(key): [
            _row(row, columns, fixed, f"{task}#{key}, row {number}")
            for number, row in enumerate(rows, start=1)
        ]
        for key, rows in values.items()
    }
    kind, tasks = build(task, sheets, order=fixed)
    found = {sheet.split: tasks[sheet] for sheet in tasks}
    # What is odd about a task cannot be told from one of its splits.
    odd = oddities(task, kind, tasks) if len(wanted) == len(there) else ()
    return TaskSplits(task, kind, found, odd, leaks=count_leaks(tasks))


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Without the library's progress bars and logged errors: ours say it in one line."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            "hub: needs the library datasets; pip install 'bayes-lora[hub]'"
        ) from None
    bars = datasets.are_progress_bars_disabled()
    verbosity = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()


def _load(name: str, cache: str) -> "Mapping[str, Dataset]":
    """All splits. What is made of a local folder's files goes to `cache`, which goes away."""
    path, config = _local(name)
    remote, remote_config = (None, None) if path else _remote(name)
    with _library_errors(name):
        if path is None:
            return _built(str(remote), remote_config, None)
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            return _saved(path)
        return _built(str(path), config, cache)


@contextmanager
def _library_errors(name: str) -> Iterator[None]:
    """Make one line of whatever the library raises: its own, pyarrow's, the network's errors."""
    try:
        yield
    except Exception as error:
        why = collapse(f"{type(error).__name__}: {error.__cause__ or error}")
        raise InputDataError(f"'hub:{name}': the library datasets cannot read it ({why})") from None


def _local(name: str) -> tuple[Path | None, str | None]:
    """The folder a name begins with, if there is one, and the config behind it."""
    if is_folder(Path(name)):
        return Path(name), None
    parent, _, config = name.rpartition("/")
    return (Path(parent), config) if parent and is_folder(Path(parent)) else (None, None)


def _remote(name: str) -> tuple[str, str | None]:
    parts = name.split("/")
    if len(parts) > 3 or not all(parts):
        raise ConfigError(
            f"'hub:{name}': no such folder, and no name on the hub; give NAME, OWNER/NAME or "
            "OWNER/NAME/CONFIG"
        )
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def _saved(path: Path) -> "Mapping[str, Dataset]":
    from datasets import Dataset, load_from_disk

    loaded = load_from_disk(str(path))
    return {str(loaded.split or "train"): loaded} if isinstance(loaded, Dataset) else loaded


def _built(path: str, config: str | None, cache: str | None) -> "Mapping[str, Dataset]":
    from datasets import load_dataset_builder

    builder: DatasetBuilder = load_dataset_builder(path, config, cache_dir=cache)
    if hasattr(builder.config, "converters"):
        # A csv file: texts and labels as they are written, not 7 for "007" or nothing for "NA".
        as_written = {
            "keep_default_na": False,
            "converters": dict.fromkeys((*_TEXT, *_LABEL), str),
        }
        builder = load_dataset_builder(path, config, cache_dir=cache, **as_written)
    builder.download_and_prepare()
    return builder.as_dataset()


def _columns(there: "Mapping[str, Dataset]", name: str) -> _Columns:
    from datasets import ClassLabel

    if not there:
        raise InputDataError(f"'hub:{name}': there are no splits in it; give data that has some")
    dataset, *more = there.values()
    if any(other.features != dataset.features for other in more):
        raise InputDataError(
            f"'hub:{name}': the splits {listed(list(there))} differ in their columns or the types "
            "of these; save them alike, or as csv or jsonl files"
        )
    text = _only(_TEXT, dataset, name)
    label = _only(_LABEL, dataset, name)
    if text is None or label is None:
        raise InputDataError(
            f"'hub:{name}': there is no column for the {'label' if text else 'text'}, such as "
            f"{listed(_LABEL if text else _TEXT)}; the columns are {listed(dataset.column_names)}"
        )
    options = _only(_OPTIONS, dataset, name)
    feature = dataset.features[label]
    classes = tuple(map(collapse, feature.names)) if isinstance(feature, ClassLabel) else None
    others = (key for key in dataset.column_names if key not in (text, label, options))
    attributes = tuple(key for key in others if _is_scalar(dataset.features[key]))
    return _Columns(text, label, options, attributes, classes)


def _only(names: Sequence[str], dataset: "Dataset", name: str) -> str | None:
    found = [column for column in names if column in dataset.column_names]
    if len(found) > 1:
        raise InputDataError(
            f"'hub:{name}': there are the columns {listed(found)}, of which any could be meant; "
            "save it as csv or jsonl with one of them"
        )
    return found[0] if found else None


def _is_scalar(feature: object) -> bool:
    kinds = ("string", "large_string", "int", "uint", "float", "bool")
    return str(getattr(feature, "dtype", "")).rstrip("0123456789") in kinds


def _fixed_options(
    there: "Mapping[str, Dataset]", columns: _Columns, name: str
) -> tuple[str, ...] | None:
    """The labels of all splits, unless every row lists options of its own."""
    if columns.options:
        return None
    if columns.classes:
        return tuple(dict.fromkeys(columns.classes))
    with _library_errors(name):
        values = [
            value
            for split in there.values()
            if not _hides_labels(split, columns)
            for value in split[columns.label]
        ]
    return tuple(sorted({_as_text(value, f"'hub:{name}', label") for value in values} - {""}))


def _hides_labels(dataset: "Dataset", columns: _Columns) -> bool:
    """Whether every label is -1, as test sets have it whose labels are held back."""
    values = dataset[columns.label]
    return len(values) > 0 and all(value == _UNKNOWN for value in values)


def _values(dataset: "Dataset", columns: _Columns, name: str) -> list[dict[str, Any]]:
    used = [columns.text, columns.label, *columns.attributes]
    with _library_errors(name):
        chosen = dataset.with_format(None).select_columns(
            [*used, columns.options] if columns.options else used
        )
        rows = chosen.to_list()
    if not columns.classes and not columns.options and _hides_labels(dataset, columns):
        return [{**row, columns.label: None} for row in rows]
    return rows


def _row(
    values: Mapping[str, Any], columns: _Columns, fixed: tuple[str, ...] | None, where: str
) -> Row:
    options = _row_options(values[columns.options], where) if columns.options else fixed or ()
    return Row(
        where,
        published_text(_as_text(values[columns.text], where), columns.text, where),
        _output(values[columns.label], columns, options, where),
        options,
        attributes={key: _as_text(values[key], where) for key in columns.attributes},
    )


def _row_options(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise InputDataError(f"{where}: the options are not a list of strings; give one")
    options = tuple(_as_text(option, where) for option in value)
    if not all(options):
        raise InputDataError(f"{where}: an option is empty; name it or remove it")
    return options


def _output(value: Any, columns: _Columns, options: tuple[str, ...], where: str) -> str | None:
    """The text of the label; None where it is not known."""
    names = options if columns.options else columns.classes
    if names and isinstance(value, int) and not isinstance(value, bool):
        if value == _UNKNOWN:
            return None
        # What is out of range is no option, and is dropped with the others of that kind.
        return names[value] if 0 <= value < len(names) else str(value)
    return _as_text(value, where) or None


def _as_text(value: object, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise InputDataError(f"{where}: {value!r:.80} is neither text nor number")
    return collapse(str(value))
