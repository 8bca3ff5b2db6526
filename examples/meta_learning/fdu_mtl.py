"""FDU-MTL: is a review good or bad? 16 domains, from toys to films (Liu et al. 2017, ACL)."""

from pathlib import Path

from bayes_lora.data import Example, Task
from bayes_lora.errors import InputDataError

OPTIONS = ("negative", "positive")
SEPARATOR = "\t"


def read_domain(folder: Path, domain: str, split: str) -> Task:
    """Read a split, "train" or "test", of one domain; rows without a text are left out.

    Args:
        folder: Has the files `<domain>.task.<split>`: a line is `0 or 1 TAB text`, the tokens of
            the text with spaces between, as published.
        domain: Such as "toys_games".
        split: "train" or "test".

    Raises:
        InputDataError: The file is not there, or a line has no such label.
    """
    path = folder / f"{domain}.task.{split}"
    if not path.is_file():
        raise InputDataError(f"{str(path)!r}: no such file; give the folder of the .task files")
    # Not splitlines() of the text: some texts hold U+0085, which it would split at.
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    examples = [_example(_text(line), f"{path.name}, line {n}") for n, line in enumerate(lines, 1)]
    kept = tuple(example for example in examples if example.input)
    empty = [example.where for example in examples if not example.input]
    warnings = (f"dropped, without a text: {', '.join(empty)}",) if empty else ()
    return Task(domain, kept, split=split, warnings=warnings)


def _text(line: bytes) -> str:
    """Most lines are UTF-8, some are latin-1, and one file has both."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _example(line: str, where: str) -> Example:
    label, _, text = line.partition(SEPARATOR)
    if label not in ("0", "1"):
        raise InputDataError(f"{where}: the label is {label!r}, not 0 or 1; correct it")
    return Example(input=text.strip(), options=OPTIONS, label=int(label), where=where)
