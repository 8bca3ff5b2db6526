"""Files of rows `text TAB answer`, as CrossFit and UnifiedQA publish them."""

from pathlib import Path

from bayes_lora.data.published import Row, published_text
from bayes_lora.data.records import read_text
from bayes_lora.data.wording import counted
from bayes_lora.errors import InputDataError


def read_tsv(path: Path, name: str | None = None) -> list[Row]:
    """Read the rows `input TAB output` of a file, white space collapsed, options empty.

    Args:
        path: The file.
        name: What errors call it; its file name if not given.

    Raises:
        InputDataError: The file cannot be read or has no rows, or a line is malformed.
    """
    name = name or path.name
    rows = []
    for number, line in enumerate(read_text(path, name).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        columns = line.split("\t")
        if len(columns) != 2:
            raise InputDataError(
                f"{where}: {counted(len(columns), 'column')} where there must be two, "
                "a text and its answer with a tab between; correct it"
            )
        text, answer = columns
        rows.append(
            Row(
                where,
                published_text(text, "input", where),
                published_text(answer, "output", where),
                (),
            )
        )
    if not rows:
        raise InputDataError(f"{name}: the file is empty; give it rows")
    return rows
