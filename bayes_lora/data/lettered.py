"""Lists of options written into a text: "Which is hot? (A) ice (B) steam".

No rule tells the letter of an option from the same letter inside an option's text ("vitamin (B)
complex"), so every way to cut the list is tried, the plainest first, until one has the answer
among its options. Runs of white space in the texts are single spaces.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

_Mark = re.Match[str]

# Some tasks are written "(A)ice(B)steam", and some rows number their options.
_MARKS = (re.compile(r"(?<!\S)\(([A-Z1-9])\)(?!\S)"), re.compile(r"\(([A-Z1-9])\)"))
_LETTER = re.compile(r"(?<!\S)\([A-Z]\)(?!\S)")
# A text can be cut in exponentially many ways; real ones need two or three tries.
_TRIES = 100


@dataclass(frozen=True)
class Lettered:
    """A text cut into what stands before the list, the list, and what follows it.

    Args:
        stem: What stands before the first letter.
        options: The texts of the options, at least two, none empty.
        rest: What follows the list.
        doubtful: Whether a letter in brackets is left in the stem or an option, so that the cut
            may be wrong.
    """

    stem: str
    options: tuple[str, ...]
    rest: str
    doubtful: bool


def cut_list(text: str, answer: str) -> Lettered | None:
    """Cut a text that is nothing but a list, "(A) .. (B) ..", into its options.

    Args:
        text: The list.
        answer: The right option. Where no cut has it, the plainest cut is returned.

    Returns:
        The cut, or None where there is no list of two options or more.
    """
    return _best(answer, (cut for marks in _MARKS for cut in _cuts(text, marks) if not cut.stem))


def cut_text(text: str, answer: str, end: str) -> Lettered | None:
    """Cut a list of options out of a text, as `cut_list`.

    The list is the last one in the text that has the answer; it ends with the text, or before
    the next `end`.
    """
    return _best(answer, (cut for marks in _MARKS for cut in _cuts(text, marks, end)))


def _best(answer: str, cuts: Iterable[Lettered]) -> Lettered | None:
    plainest = None
    for cut in cuts:
        if answer in cut.options:
            return cut
        plainest = plainest or cut
    return plainest


def _cuts(text: str, pattern: re.Pattern[str], end: str | None = None) -> Iterator[Lettered]:
    marks = list(pattern.finditer(text))
    starts = (number for number in reversed(range(len(marks))) if marks[number][1] in "A1")
    for start in islice(starts, _TRIES):
        stop = text.find(end, marks[start].end()) if end else -1
        stop = len(text) if stop < 0 else stop
        inside = [mark for mark in marks[start:] if mark.start() < stop]
        for chain in islice(_chains(inside, 0), _TRIES):
            options = _between(text, chain, stop)
            if len(options) > 1 and all(options):
                stem = text[: chain[0].start()].strip()
                doubtful = any(_LETTER.search(part) for part in (stem, *options))
                yield Lettered(stem, options, text[stop:], doubtful)


def _chains(marks: list[_Mark], start: int) -> Iterator[list[_Mark]]:
    """Marks in alphabetical sequence, beginning with one; first those at the earliest places."""
    following = chr(ord(marks[start][1]) + 1)
    for number in range(start + 1, len(marks)):
        if marks[number][1] == following:
            for chain in _chains(marks, number):
                yield [marks[start], *chain]
    yield [marks[start]]


def _between(text: str, chain: list[_Mark], stop: int) -> tuple[str, ...]:
    stops = [*(mark.start() for mark in chain[1:]), stop]
    pairs = zip(chain, stops, strict=True)
    return tuple(text[mark.end() : until].strip() for mark, until in pairs)
