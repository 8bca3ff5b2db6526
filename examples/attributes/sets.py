"""Published sets whose rows belong to somebody or something: the attribute is a column of each.

    fdu-mtl        good or bad, in 16 domains: attribute "domain"
    four-authors   film reviews by four authors, 3 classes: attribute "author"
    yelp           1 to 5 stars: attributes "user_id" and "business_id", most levels with one row

`load` splits each into train, dev and test. Test and dev are the same whatever the seed, and no
text stands in two of the three, but for case and white space.
"""

import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "meta_learning"))
from fdu_mtl import read_domain

from bayes_lora.data import Example, Task, TaskSet, remove_overlap
from bayes_lora.data.records import Record, read_records, read_text
from bayes_lora.data.wording import counted, listed
from bayes_lora.errors import ConfigError, InputDataError, check_seed

# Pang and Lee's 0, 1 and 2: a rating up to 0.4, between, and from 0.7 on.
CLASSES = ("negative", "neutral", "positive")
STARS = ("1", "2", "3", "4", "5")
YELP_ATTRIBUTES = ("user_id", "business_id")

# What is held out is drawn with this seed alone, so that all seeds of train share it.
HELD_OUT_SEED = 20
FDU_DEV = 100  # rows a domain
TEST_SHARE = 0.2
DEV_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """The three parts of a set; the warnings of train and dev say what was dropped."""

    train: Task
    dev: Task
    test: Task


def load(name: str, folder: Path, seed: int, size: int | None = None) -> Split:
    """Read a set and split it.

    Rows of train and dev that also stand in test are dropped, as are rows of train that stand in
    dev, before a smaller train is drawn.

    Args:
        name: One of SETS.
        folder: Has the set's own files, as the function that reads it says.
        seed: What a smaller train is drawn with, uniformly; the smaller of a seed are in the
            larger. Without a size it changes nothing.
        size: How many rows of train: of each domain or author, of yelp in all; None for all.

    Raises:
        ConfigError: There is no such set, or not that many rows.
        InputDataError: A file is missing or malformed.
    """
    check_seed(seed)
    if name not in SETS:
        raise ConfigError(f"there is no set {name!r}; the sets are {listed(list(SETS))}")
    if size is not None and size < 1:
        raise ConfigError(f"the size of train must be 1 or more, not {size}")
    source = SETS[name](Path(folder))
    clean = _only(remove_overlap([], [source.rest], [source.test]).dev)
    dev, rest = _draw(clean, source.group, source.dev, HELD_OUT_SEED)
    train = _only(remove_overlap([rest], [dev], [source.test]).train)
    if size is not None:
        wanted = dict.fromkeys(_sizes(source.rest, source.group), size)
        train, _ = _draw(train, source.group, wanted, seed)
    parts = {"train": train, "dev": dev, "test": source.test}
    return Split(**{part: replace(task, name=name, split=part) for part, task in parts.items()})


def shuffled(task: Task, attributes: Sequence[str], share: float, seed: int) -> Task:
    """Give some rows each other's values of the attributes: so many rows tell nothing of them.

    The rows are the same for all attributes, but each attribute is permuted by itself; a row may
    get its own value back. With one seed, the rows of a smaller share are in those of a larger.

    Args:
        task: The rows; their texts, labels and other attributes stay.
        attributes: Which columns to permute.
        share: What share of the rows, from 0 to 1; rounded.
        seed: Where the randomness comes from.

    Raises:
        ConfigError: `share` is not between 0 and 1, or no row has such an attribute.
    """
    check_seed(seed)
    if not 0 <= share <= 1:
        raise ConfigError(f"the share of rows to shuffle must lie between 0 and 1, not {share}")
    absent = [name for name in attributes if name not in task.attributes]
    if absent:
        raise ConfigError(f"{task.name}: no attribute {listed(absent)} to shuffle")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(task))[: round(share * len(task))]
    examples = list(task.examples)
    for name in attributes:
        for row, other in zip(chosen, rng.permutation(chosen), strict=True):
            value = task.examples[other].attributes.get(name, "")
            examples[row] = _with(examples[row], **{name: value})
    warning = f"{listed(attributes)} of {counted(len(chosen), 'row')} shuffled (seed {seed})"
    return replace(task, examples=tuple(examples), warnings=(*task.warnings, warning))


def read_fdu_mtl(folder: Path, split: str) -> Task:
    """Read a split, "train" or "test", of all domains there are.

    Args:
        folder: Has the files `<domain>.task.train` and `<domain>.task.test`.
        split: "train" or "test".

    Raises:
        InputDataError: There is no domain, one lacks a file, or a line has no label.
    """
    files = [path.name for path in folder.glob("*.task.*")]
    domains = sorted({name.partition(".task.")[0] for name in files})
    if not domains:
        raise InputDataError(f"{str(folder)!r}: no .task.train files; give the folder that has")
    tasks = [read_domain(folder, domain, split) for domain in domains]
    rows = tuple(_with(row, domain=task.name) for task in tasks for row in task.examples)
    warnings = tuple(warning for task in tasks for warning in task.warnings)
    return Task("fdu-mtl", rows, split=split, warnings=warnings)


def read_four_authors(folder: Path) -> Task:
    """Read the reviews of all authors; rows without a text are left out.

    Args:
        folder: Has a folder an author, such as `Scott+Renshaw` with the files
            `subj.Scott+Renshaw`, a text a line, and `label.3class.Scott+Renshaw`, which says 0, 1
            or 2 in the same line. The author is then called "Scott Renshaw".

    Raises:
        InputDataError: There is no author, a file is missing or not UTF-8, the lines are not
            parallel, or a label is another one.
    """
    authors = sorted(path.parent for path in folder.glob("*/subj.*"))
    if not authors:
        raise InputDataError(f"{str(folder)!r}: no */subj.* files; give the folder that has them")
    return _task("four-authors", [row for author in authors for row in _author(author)])


def read_yelp(folder: Path) -> Task:
    """Read the reviews of `yelp.csv`, the stars as labels; rows without a text are left out.

    Args:
        folder: Has `yelp.csv` with the columns `text`, `stars`, `user_id` and `business_id`.

    Raises:
        InputDataError: The file is missing, is not well-formed, lacks a column, or has other
            stars than 1 to 5.
    """
    records = read_records(folder / "yelp.csv")
    columns = list(records[0].fields)
    absent = [name for name in ("text", "stars", *YELP_ATTRIBUTES) if name not in columns]
    if absent:
        raise InputDataError(
            f"yelp.csv: there is no column {listed(absent)}; the columns are {listed(columns)}"
        )
    return _task("yelp", [_review(record) for record in records])


@dataclass(frozen=True)
class _Source:
    """A set before train and dev are drawn.

    Args:
        rest: All rows that are not test.
        test: The test rows.
        group: The attribute whose levels are each drawn from by themselves; None for all rows.
        dev: How many rows dev takes of each level.
    """

    rest: Task
    test: Task
    group: str | None
    dev: Mapping[str, int]


def _fdu_mtl(folder: Path) -> _Source:
    rest, test = (read_fdu_mtl(folder, split) for split in ("train", "test"))
    return _Source(rest, test, "domain", dict.fromkeys(_sizes(rest, "domain"), FDU_DEV))


def _four_authors(folder: Path) -> _Source:
    return _by_shares(read_four_authors(folder), "author")


def _yelp(folder: Path) -> _Source:
    return _by_shares(read_yelp(folder), None)


SETS: dict[str, Callable[[Path], _Source]] = {
    "fdu-mtl": _fdu_mtl,
    "four-authors": _four_authors,
    "yelp": _yelp,
}


def _by_shares(task: Task, group: str | None) -> _Source:
    """Draw a test split where none is published."""
    sizes = _sizes(task, group)
    wanted = {level: round(TEST_SHARE * rows) for level, rows in sizes.items()}
    test, rest = _draw(task, group, wanted, HELD_OUT_SEED)
    dev = {level: round(DEV_SHARE * rows) for level, rows in sizes.items()}
    return _Source(rest, test, group, dev)


def _group_of(row: Example, group: str | None) -> str:
    return "" if group is None else row.attributes[group]


def _sizes(task: Task, group: str | None) -> Counter[str]:
    return Counter(_group_of(row, group) for row in task.examples)


def _draw(task: Task, group: str | None, wanted: Mapping[str, int], seed: int) -> tuple[Task, Task]:
    """Draw so many rows of each level: those drawn and the others, both in the file's order."""
    levels: dict[str, list[int]] = {level: [] for level in wanted}
    for n, row in enumerate(task.examples):
        levels[_group_of(row, group)].append(n)
    drawn: set[int] = set()
    for level, rows in levels.items():
        if len(rows) < wanted[level]:
            raise ConfigError(
                f"{task.name}: {wanted[level]} rows of {level or task.name!r} are asked for, and "
                f"{len(rows)} are left; ask for fewer"
            )
        # A generator a level: another level more or less in the folder changes nothing here.
        rng = np.random.default_rng([seed, zlib.crc32(level.encode())])
        drawn.update(rows[n] for n in rng.permutation(len(rows))[: wanted[level]])
    numbered = list(enumerate(task.examples))
    chosen = tuple(row for n, row in numbered if n in drawn)
    others = tuple(row for n, row in numbered if n not in drawn)
    return replace(task, examples=chosen), replace(task, examples=others)


def _only(left: TaskSet) -> Task:
    """The one task that is left, whose warnings say what it lost."""
    if not left.tasks:
        raise InputDataError("; ".join(left.warnings))
    return left.tasks[0]


def _with(row: Example, **attributes: str) -> Example:
    return replace(row, attributes={**row.attributes, **attributes})


def _task(name: str, rows: Sequence[Example]) -> Task:
    """The rows that have a text, and a warning about the others."""
    empty = [row.where for row in rows if not row.input]
    warnings = (f"dropped, without a text: {', '.join(empty)}",) if empty else ()
    return Task(name, tuple(row for row in rows if row.input), warnings=warnings)


def _author(folder: Path) -> list[Example]:
    author = folder.name
    texts, labels = (
        read_text(folder / f"{what}.{author}").removesuffix("\n").split("\n")
        for what in ("subj", "label.3class")
    )
    if len(texts) != len(labels):
        raise InputDataError(
            f"subj.{author} has {len(texts)} lines and label.3class.{author} has {len(labels)}; "
            "a line of one goes with a line of the other, so give as many"
        )
    rows = zip(texts, labels, strict=True)
    return [_review_by(author, n, text, label) for n, (text, label) in enumerate(rows, 1)]


def _review_by(author: str, line: int, text: str, label: str) -> Example:
    if label.strip() not in ("0", "1", "2"):
        raise InputDataError(
            f"label.3class.{author}, line {line}: the label is {label!r}, not 0, 1 or 2; correct it"
        )
    return Example(
        input=text.strip(),
        options=CLASSES,
        label=int(label),
        attributes={"author": author.replace("+", " ")},
        where=f"subj.{author}, line {line}",
    )


def _review(record: Record) -> Example:
    # In csv, no field is a list.
    fields = {column: str(value).strip() for column, value in record.fields.items()}
    if fields["stars"] not in STARS:
        raise InputDataError(
            f"{record.where}: the stars are {fields['stars']!r}, not 1 to 5; correct them"
        )
    return Example(
        input=fields["text"],
        options=STARS,
        label=STARS.index(fields["stars"]),
        attributes={name: fields[name] for name in YELP_ATTRIBUTES},
        where=record.where,
    )
