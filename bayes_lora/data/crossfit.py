"""CrossFit tasks: folders of `<task>_<shots>_<seed>_{train,dev,test}` files, in either layout.

CrossFit's own files are tsv, `input TAB output`; the options stand in the input, "(A) .. (B) ..",
or are the labels that occur. MetaICL's are jsonl and list the options. A task reads the same from
both. Papers: Ye et al. 2021, arXiv:2104.08835; Min et al. 2022, arXiv:2110.15943.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bayes_lora.data.lettered import Lettered, cut_text
from bayes_lora.data.location import entries, folders_holding
from bayes_lora.data.oddities import count_leaks, oddities
from bayes_lora.data.published import Row, Sheet, build, collapse, published_text
from bayes_lora.data.records import Record, read_records
from bayes_lora.data.task import TaskSplits
from bayes_lora.data.tsv import read_tsv
from bayes_lora.data.wording import listed
from bayes_lora.errors import InputDataError

_FILE = re.compile(
    r"(?P<task>.+)_(?P<shots>[0-9]+)_(?P<seed>0|[1-9][0-9]{0,8})"
    r"_(?P<split>train|dev|test)\.(?P<layout>tsv|jsonl)"
)
_SPLITS = ("train", "dev", "test")
_SEPARATOR = "[SEP]"
# A list of options that the answer is often not in is no list of options.
_ANSWERS_FOUND = 0.9
# Two answers are labels, however few the rows.
_FEWEST_FREE_ANSWERS = 3


class UnusableTaskError(InputDataError):
    """A task that a collection can do without: it has no such seed, or cannot be scored."""


@dataclass(frozen=True)
class _Folder:
    """The files of one task."""

    task: str
    layout: str
    files: Mapping[Sheet, Path]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({sheet.seed for sheet in self.files if sheet.seed is not None}))


def task_folders(folder: Path) -> list[Path]:
    """The folders of tasks in a folder, by name; the folder itself if it is one.

    Raises:
        InputDataError: There are none, or there is no such folder.
    """
    return folders_holding(
        folder,
        _matches,
        "there are no CrossFit tasks in it; give a folder of files named "
        "<task>_<shots>_<seed>_<split>.tsv or .jsonl, or a folder of such folders",
    )


def read_crossfit(folder: Path, seed: int | None = None) -> TaskSplits:
    """Read a CrossFit task.

    All its files are read whatever the seed, since all of them say what the options are. The
    test file is the same for every seed, and may be kept under one of them.

    Args:
        folder: The folder of one task.
        seed: The support seed of train and dev; the lowest there is if not given.

    Raises:
        InputDataError: A file cannot be read or is malformed, both layouts are there, there is
            no such seed, or the answers are free text.
    """
    found = _files(folder)
    seed = found.seeds[0] if seed is None else seed
    if seed not in found.seeds:
        seeds = ", ".join(map(str, found.seeds))
        raise UnusableTaskError(f"{found.task}: there is no seed {seed}; the seeds are {seeds}")
    chosen = _chosen(found, seed)
    needed = {sheet: path for sheet, path in found.files.items() if sheet.split != "test"}
    needed.update((Sheet(split, seed), path) for split, path in chosen.items())
    reader, finish = _LAYOUTS[found.layout]
    rows, notes = finish(found.task, {sheet: reader(path) for sheet, path in needed.items()})
    kind, tasks = build(found.task, rows)
    splits = {split: tasks[Sheet(split, seed)] for split in chosen}
    warnings = (*notes, *oddities(found.task, kind, tasks))
    return TaskSplits(found.task, kind, splits, warnings, found.seeds, count_leaks(tasks))


def _matches(paths: Sequence[Path]) -> list[tuple[Path, re.Match[str]]]:
    found = ((path, _FILE.fullmatch(path.name)) for path in paths)
    return [(path, match) for path, match in found if match]


def _files(folder: Path) -> _Folder:
    matches = _matches(entries(folder))
    if not matches:
        raise InputDataError(f"{str(folder)!r}: there are no files of a CrossFit task in it")
    for group, what in (("layout", "layouts"), ("task", "tasks"), ("shots", "numbers of shots")):
        values = sorted({match[group] for _, match in matches})
        if len(values) > 1:
            raise InputDataError(
                f"{str(folder)!r}: there are files of several {what}, {listed(values)}; keep one"
            )
    _, first = matches[0]
    files = {Sheet(match["split"], int(match["seed"])): path for path, match in matches}
    return _Folder(first["task"], first["layout"], files)


def _chosen(found: _Folder, seed: int) -> dict[str, Path]:
    """The files of a seed, by split."""
    chosen = {}
    for split in _SPLITS:
        seeds = (seed, *found.seeds) if split == "test" else (seed,)
        paths = [found.files[Sheet(split, s)] for s in seeds if Sheet(split, s) in found.files]
        if paths:
            chosen[split] = paths[0]
    return chosen


def _read_jsonl(path: Path) -> list[Row]:
    return [_row_of_record(record) for record in read_records(path)]


def _row_of_record(record: Record) -> Row:
    options = record.fields.get("options")
    if not isinstance(options, list):
        raise InputDataError(f"{record.where}: 'options' is not a list of strings; give one")
    if not all(map(collapse, options)):
        raise InputDataError(f"{record.where}: an option is empty; name it or remove it")
    return Row(
        record.where,
        published_text(record.fields.get("input", ""), "input", record.where),
        published_text(record.fields.get("output", ""), "output", record.where),
        tuple(map(collapse, options)),
    )


_Sheets = Mapping[Sheet, list[Row]]


def _listed_options(task: str, sheets: _Sheets) -> tuple[_Sheets, list[str]]:
    if not any(row.options for rows in sheets.values() for row in rows):
        raise UnusableTaskError(f"{task}: no row lists options, so that no answer can be scored")
    return sheets, []


def _recovered_options(task: str, sheets: _Sheets) -> tuple[_Sheets, list[str]]:
    """Find the options of a task in CrossFit's own layout, and say how they were found."""
    rows = [row for rows in sheets.values() for row in rows]
    cuts = {row: cut_text(row.input, row.output or "", _SEPARATOR) for row in rows}
    found = sum(cut is not None and row.output in cut.options for row, cut in cuts.items())
    if found >= _ANSWERS_FOUND * len(cuts):
        note = "the options are cut out of the texts, where they stand as (A) .. (B) .."
        return _each(sheets, lambda row: _with_list(row, cuts[row])), [note]
    labels = tuple(sorted({row.output or "" for row in rows}))
    _check_labels(task, labels, len({row.input for row in rows}))
    note = f"the options are the {len(labels)} labels that occur in its files"
    return _each(sheets, lambda row: replace(row, options=labels)), [note]


def _each(sheets: _Sheets, change: Callable[[Row], Row]) -> _Sheets:
    return {sheet: list(map(change, rows)) for sheet, rows in sheets.items()}


def _with_list(row: Row, cut: Lettered | None) -> Row:
    if cut is None:
        return row
    # As MetaICL has it: "question (A) .. [SEP] passage" becomes "passagequestion". A space
    # between would be better, but then a task would not read the same from both layouts.
    text = cut.rest.removeprefix(_SEPARATOR).strip() + cut.stem
    if not text:
        raise InputDataError(f"{row.where}: there is no question before the options; add it")
    return replace(row, input=text, options=cut.options, doubtful=cut.doubtful)


def _check_labels(task: str, labels: Sequence[str], inputs: int) -> None:
    if len(labels) < 2:
        raise InputDataError(
            f"{task}: one class only, all rows are labelled {listed(labels)}; "
            "add rows of another class"
        )
    if len(labels) >= _FEWEST_FREE_ANSWERS and len(labels) > inputs / 2:
        raise UnusableTaskError(
            f"{task}: the answers look like free text ({len(labels)} different ones to {inputs} "
            "inputs) and no options are listed, so that no answer can be scored"
        )


_Reader = Callable[[Path], list[Row]]
_Finisher = Callable[[str, _Sheets], tuple[_Sheets, list[str]]]
# How the files of a layout are read, and what is then done with all of a task's together.
_LAYOUTS: dict[str, tuple[_Reader, _Finisher]] = {
    "jsonl": (_read_jsonl, _listed_options),
    "tsv": (read_tsv, _recovered_options),
}
