"""The benchmark's data sets: what may be learned from, what is judged, what lies outside.

    sst2-200, sst2-500   sentences of film reviews, two classes; shifted: other reviews (MR);
                         outside: questions (TREC)
    mr-500               the other reviews; shifted: SST-2; outside: TREC
    trec-500             questions, six classes; outside: film reviews (MR)
    subj-200             subjective or objective sentences, two classes; outside: TREC
    clinc150             ten requests for each of 150 intents; outside: requests of no intent
    openbookqa-500       questions with four options, read as text (`similarity`)

Which rows are given to learn from depends on the seed. Judged are the test rows, at most 2,000,
and at most 1,000 of each other source, chosen by hash; rows to learn from that stand among any rows
judged are left out (SST-2's sentences are MR's). For choices of our own there is `development`:
other seeds, and in place of test rows the development rows or, where a set has none, a half of its
training file that the benchmark never learns from.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import read_lines

from bayes_lora.data import Example, Task, cap_queries
from bayes_lora.data.unifiedqa import read_unifiedqa

CAP = 2000
ELSEWHERE = 1000  # rows of another source, shifted or outside
DEVELOPMENT_SEED = 1000  # added to a seed
Lines = list[tuple[str, str]]


@dataclass(frozen=True)
class Data:
    """One set with one seed.

    Args:
        name: The set's.
        given: The labelled rows that a method may use as it likes.
        judged: Rows to be judged on.
        scorer: How options are scored.
        shifted: Name of another source to rows of it with the same options.
        outside: Name of another source to rows that have none of the options as their answer.
    """

    name: str
    given: Task
    judged: Task
    scorer: str = "class-head"
    shifted: dict[str, Task] = field(default_factory=dict)
    outside: dict[str, Task] = field(default_factory=dict)


def load(name: str, folder: Path, seed: int, *, development: bool = False) -> Data:
    """Read a set.

    Args:
        name: One of ``SETS``.
        folder: Has the folders ``classification``, ``clinc150`` and ``unifiedqa``.
        seed: Of the rows to learn from.
        development: Whether it is for choosing, so that test rows stay unseen.

    Raises:
        InputDataError: A file is not there, or is not what it should be.
    """
    data = SETS[name](folder, development)
    if development:  # a few questions stand in training or development files and in test files
        data = replace(data, judged=_without(data.judged, SETS[name](folder, False)))
    size = int(name.rpartition("-")[2]) if "-" in name else None
    free = _without(_without(data.given, data), SETS[name](folder, False)).examples
    ordered = sorted(free, key=partial(_place, seed + DEVELOPMENT_SEED * development))
    chosen = ordered[:size] if size else _of_each_class(ordered, 10)
    return replace(data, name=name, given=replace(data.given, name=name, examples=tuple(chosen)))


def _without(task: Task, shown: Data) -> Task:
    """Leave out the rows whose text is judged."""
    seen = {row.input for own in (shown.judged, *shown.shifted.values()) for row in own.examples}
    return replace(task, examples=tuple(row for row in task.examples if row.input not in seen))


def held_back(task: Task, seed: int, share: float = 0.2) -> tuple[Task, Task]:
    """Split what is given into rows to learn from and rows to stop and recalibrate on."""
    ordered = sorted(task.examples, key=partial(_place, f"held back {seed}"))
    count = round(share * len(ordered))
    parts = replace(task, examples=tuple(ordered[count:])), ordered[:count]
    seen = {example.label for example in parts[0].examples}
    known = tuple(example for example in parts[1] if example.label in seen)
    return parts[0], replace(task, name=f"{task.name} dev", examples=known)


def _place(seed: int | str, example: Example) -> bytes:
    return hashlib.sha256(f"{seed} {example.input}".encode()).digest()


def _of_each_class(ordered: Sequence[Example], count: int) -> list[Example]:
    taken: dict[int | None, int] = {}
    chosen = []
    for example in ordered:
        taken[example.label] = taken.get(example.label, 0) + 1
        if taken[example.label] <= count:
            chosen.append(example)
    return chosen


def _sst2(folder: Path, development: bool) -> Data:
    split = "dev" if development else "test"
    train, judged = (_read(folder, f"stsa.binary.{part}") for part in ("train", split))
    shifted = _test_half(_read(folder, "rt-polarity.all"), development)
    return _data(train, judged, {"mr": shifted}, {"trec": _trec_lines(folder, development)})


def _mr(folder: Path, development: bool) -> Data:
    everything = _read(folder, "rt-polarity.all")
    judged = _test_half(everything, development)
    train = [line for line in everything if not _is_test(line)]
    sst2 = _read(folder, f"stsa.binary.{'dev' if development else 'test'}")
    return _data(train, judged, {"sst2": sst2}, {"trec": _trec_lines(folder, development)})


def _trec(folder: Path, development: bool) -> Data:
    train = [line for line in _read(folder, "TREC.train.all") if not _is_test(line)]
    judged = _trec_lines(folder, development)
    return _data(
        train, judged, {}, {"mr": _test_half(_read(folder, "rt-polarity.all"), development)}
    )


def _subj(folder: Path, development: bool) -> Data:
    everything = _read(folder, "subj.all")
    train = [line for line in everything if not _is_test(line)]
    judged = _test_half(everything, development)
    return _data(train, judged, {}, {"trec": _trec_lines(folder, development)})


def _clinc150(folder: Path, development: bool) -> Data:
    split = "val" if development else "test"
    path = folder / "clinc150" / "data_full.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    parts = {
        part: [(intent.replace("_", " "), text) for text, intent in rows[part]] for part in rows
    }
    train, judged = ([(text, label) for label, text in parts[part]] for part in ("train", split))
    outside = [(text, label) for label, text in parts[f"oos_{split}"]]
    return _data(train, judged, {}, {"oos": outside})


def _openbookqa(folder: Path, development: bool) -> Data:
    splits = read_unifiedqa(folder / "unifiedqa" / "openbookqa").splits
    judged = cap_queries(splits["dev" if development else "test"], CAP)
    return Data("openbookqa", splits["train"], judged, "similarity")


SETS: dict[str, Callable[[Path, bool], Data]] = {
    "sst2-200": _sst2,
    "sst2-500": _sst2,
    "mr-500": _mr,
    "trec-500": _trec,
    "subj-200": _subj,
    "clinc150": _clinc150,
    "openbookqa-500": _openbookqa,
}


def _data(
    train: Lines, judged: Lines, shifted: dict[str, Lines], outside: dict[str, Lines]
) -> Data:
    """Make a set of (text, label) pairs; the labels in training are the options."""
    options = tuple(sorted({label for _, label in train}))
    task = partial(_task, options=options)
    return Data(
        "",
        task("train", train),
        cap_queries(task("test", judged), CAP),
        shifted={
            name: cap_queries(task(name, lines), ELSEWHERE) for name, lines in shifted.items()
        },
        outside={
            name: cap_queries(task(name, [(text, options[0]) for text, _ in lines]), ELSEWHERE)
            for name, lines in outside.items()
        },
    )


def _task(name: str, lines: Lines, options: tuple[str, ...]) -> Task:
    once = dict(lines)  # a text that stands there twice is taken once
    examples = (
        Example(input=text, options=options, label=options.index(label), where=f"{name}, row {row}")
        for row, (text, label) in enumerate(once.items(), 1)
    )
    return Task(name, tuple(examples))


def _read(folder: Path, name: str) -> Lines:
    lines = read_lines(folder / "classification" / name)
    return [(text.strip(), label) for text, label in lines]


def _trec_lines(folder: Path, development: bool) -> Lines:
    if development:
        return _test_half(_read(folder, "TREC.train.all"), development)
    return _read(folder, "TREC.test.all")


def _test_half(lines: Lines, development: bool) -> Lines:
    """Take the half that is not learned from: a half of that to judge, the other to develop on."""
    return [line for line in lines if _is_test(line) and _odd(line, "development") == development]


def _is_test(line: tuple[str, str]) -> bool:
    return _odd(line, "test")


def _odd(line: tuple[str, str], salt: str) -> bool:
    return bool(hashlib.sha256(f"{salt} {line[0]}".encode()).digest()[0] % 2)
