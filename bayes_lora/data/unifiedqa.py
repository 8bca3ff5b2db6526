r"""UnifiedQA's multiple-choice sets: folders with train.tsv, dev.tsv and test.tsv.

A line is `question \n (A) .. (B) .. [\n passage] TAB answer`, where `\n` is a backslash and an n.
Paper: Khashabi et al. 2020, arXiv:2005.00700.
"""

import re
from dataclasses import replace
from pathlib import Path

from bayes_lora.data.lettered import cut_list
from bayes_lora.data.location import entries, folders_holding
from bayes_lora.data.oddities import count_leaks, oddities
from bayes_lora.data.published import Row, Sheet, build
from bayes_lora.data.task import Kind, TaskSplits
from bayes_lora.data.tsv import read_tsv
from bayes_lora.errors import InputDataError

_SPLITS = ("train", "dev", "test")
_SEPARATOR = r" \n "
_LIST = re.compile(r"(?P<question>.*?) \\n (?=\(A\))(?P<rest>.*)")


def unifiedqa_folders(folder: Path) -> list[Path]:
    """The folders of sets in a folder, by name; the folder itself if it is one.

    Raises:
        InputDataError: There are none, or there is no such folder.
    """
    return folders_holding(
        folder,
        _files,
        "there is no UnifiedQA set in it; give a folder with train.tsv, dev.tsv or test.tsv, or a "
        "folder of such folders",
    )


def read_unifiedqa(folder: Path) -> TaskSplits:
    """Read a multiple-choice set.

    The options are cut out of the text; a passage stays behind the question, the separator
    between them.

    Args:
        folder: The folder of one set, whose name becomes the task's.

    Raises:
        InputDataError: A file cannot be read, or a line is malformed or lists no options.
    """
    name = folder.name or folder.resolve().name
    sheets = {
        Sheet(split): [_cut(row) for row in read_tsv(path, f"{name}/{path.name}")]
        for split, path in _files(entries(folder)).items()
    }
    kind, tasks = build(name, sheets, kind=Kind.MULTIPLE_CHOICE)
    splits = {sheet.split: task for sheet, task in tasks.items()}
    return TaskSplits(name, kind, splits, oddities(name, kind, tasks), leaks=count_leaks(tasks))


def _files(paths: list[Path]) -> dict[str, Path]:
    by_name = {path.name: path for path in paths}
    return {split: by_name[f"{split}.tsv"] for split in _SPLITS if f"{split}.tsv" in by_name}


def _cut(row: Row) -> Row:
    match = _LIST.fullmatch(row.input)
    if match:
        listing, separator, passage = match["rest"].partition(_SEPARATOR)
        cut = cut_list(listing, row.output or "")
        if cut:
            text = match["question"] + separator + passage
            return replace(row, input=text, options=cut.options, doubtful=cut.doubtful)
    raise InputDataError(
        rf"{row.where}: there are no options, 'question \n (A) .. (B) ..'; only multiple-choice "
        "sets can be read"
    )
