"""What is odd about a task as a whole: labels that do not fit, rows that leak.

Published data sets hold such things and cannot be corrected; a user should know of them before
a number is reported.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher

from bayes_lora.data.published import Sheet
from bayes_lora.data.task import Example, Kind, Task
from bayes_lora.data.wording import counted, listed

_WORD = re.compile(r"[^\W_]+")
# "non-X", "not X", "not_X" with one word for X, and "noX" in camel case. "no effect" is
# no negation of a label.
_NEGATION = re.compile(r"(?i:non-|not[ _])([\w-]+)|no(?=[A-Z])(\w+)")
_NEARLY = 0.85

_Content = tuple[str, frozenset[str]]


def oddities(name: str, kind: Kind, tasks: Mapping[Sheet, Task]) -> tuple[str, ...]:
    """Find what is odd about a task.

    Args:
        name: The task's name.
        kind: Whether its options are fixed labels.
        tasks: All its sheets, of every seed.

    Returns:
        Sentences that do not name the task.
    """
    examples = [example for task in tasks.values() for example in task.examples]
    found = [*_leak_warning(tasks), *_contradictions(examples)]
    if kind is Kind.FIXED_LABELS and any(example.label is not None for example in examples):
        options = examples[0].options
        used = {row.options[row.label] for row in examples if row.label is not None}
        found += [*_unused(options, used), *_negations(options, used), *_misspelt(name, options)]
    return tuple(found)


def count_leaks(tasks: Mapping[Sheet, Task]) -> int | None:
    """How many test rows also stand, with the same options, in train or dev of any seed.

    Returns:
        The number; None if there is no test sheet, or nothing beside it.
    """
    test = [task for sheet, task in tasks.items() if sheet.split == "test"]
    others = [task for sheet, task in tasks.items() if sheet.split != "test"]
    if not test or not others:
        return None
    seen = {_content(example) for task in others for example in task.examples}
    # Where every seed has a test file, they are copies of one another.
    return sum(_content(example) in seen for example in test[0].examples)


def _content(example: Example) -> _Content:
    # A short question may well stand in both with other options.
    return example.input, frozenset(example.options)


def _leak_warning(tasks: Mapping[Sheet, Task]) -> list[str]:
    leaks = count_leaks(tasks)
    if not leaks:
        return []
    of_seeds = " of some seed" if any(sheet.seed is not None for sheet in tasks) else ""
    stand = "stands" if leaks == 1 else "stand"
    return [
        f"{counted(leaks, 'test row')} also {stand}, with the same options, in train or dev"
        f"{of_seeds}"
    ]


def _contradictions(examples: Iterable[Example]) -> list[str]:
    labels: dict[_Content, dict[str, str]] = {}
    for example in examples:
        if example.label is not None:
            answers = labels.setdefault(_content(example), {})
            answers.setdefault(example.options[example.label], example.where)
    several = [answers for answers in labels.values() if len(answers) > 1]
    if not several:
        return []
    first = ", ".join(f"{answer!r} in {where}" for answer, where in several[0].items())
    stand = "input stands" if len(several) == 1 else "inputs stand"
    return [f"{len(several)} {stand} under different labels, such as {first}"]


def _unused(options: Sequence[str], used: set[str]) -> list[str]:
    never = [option for option in options if option not in used]
    if not never:
        return []
    are = "is" if len(never) == 1 else "are"
    return [f"{len(never)} of {len(options)} options {are} never a label: {listed(never)}"]


def _negations(options: Sequence[str], used: set[str]) -> list[str]:
    known = {option.lower() for option in used}
    found = []
    for option in options:
        match = _NEGATION.fullmatch(option)
        denied = match and (match[1] or match[2])
        if denied and denied.lower() not in known:
            others = listed(sorted(used - {option}))
            found.append(f"{option!r} is an option, but its opposite is not {denied!r}: {others}")
    return found


def _misspelt(name: str, options: Sequence[str]) -> list[str]:
    words = {word for word in _WORD.findall(name.lower()) if len(word) > 4}
    return [
        f"the option {option!r} nearly spells {word!r}, a word of the task's name"
        for option in options
        for part in _WORD.findall(option.lower())
        for word in sorted(words)
        if _nearly(part, word)
    ]


def _nearly(part: str, word: str) -> bool:
    # A word and its plural are not a misspelling.
    if part.startswith(word) or word.startswith(part):
        return False
    return SequenceMatcher(None, part, word).ratio() >= _NEARLY
