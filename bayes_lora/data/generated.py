"""The task `bayes-lora demo` makes for itself: which desk should answer a support message?

Messages to an imaginary shop are built from the phrases in `phrases.py` by a seeded random
grammar; nothing is copied from anywhere. A message is one of four kinds:

- clear: one problem, whose desk is plain;
- ruled out: one problem, beside the subject of another desk named only to say all is well;
- two problems: from two desks, where the wording says which is probably the main one;
- borderline: a problem that two or more desks answer for.

The desk of the last two kinds is drawn from a distribution known for each wording, so that no
model can be right about all of them, and one that is sure of itself there pays for it. Around the
problem come greetings, sarcasm, small talk, typos, and other habits of people in a hurry, none of
which bear on the label.

About one message in five is ambiguous. The best possible accuracy is about 0.915, at a mean
negative log-likelihood of about 0.15; a logistic regression on frozen MiniLM embeddings, fitted to
200 messages, reaches about 0.80.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from bayes_lora.data import phrases
from bayes_lora.data.inboxes import INBOXES, OUT_OF_PLACE
from bayes_lora.data.task import Example, Task
from bayes_lora.errors import ConfigError

OPTIONS = tuple(sorted(phrases.ISSUES))

Odds = Mapping[str, float]
Slots = Mapping[str, Sequence[str]]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_START = re.compile(r"(^|[.?!:] +)([a-z])")
_LONE_I = re.compile(r"\bi\b(?!-)")
_SHORTCUTS = {"please": "pls", "with": "w/", "you": "u", "your": "ur", "are": "r", "and": "&"}
_SMALL_TALK = 0.5
_SECOND_PROBLEM = 1 / 6
_OPENERS, _CLOSERS = (
    [pattern for pattern in talk if not any(word in pattern for word in OUT_OF_PLACE)]
    for talk in (phrases.OPENERS, phrases.CLOSERS)
)
_TALK = (_OPENERS, _CLOSERS)


def generate(num_examples: int, seed: int) -> Task:
    """Make the support task; the same arguments always make the same one.

    Raises:
        ConfigError: `num_examples` is not positive.
    """
    task, _ = generate_with_probabilities(num_examples, seed)
    return task


def generate_with_probabilities(
    num_examples: int, seed: int
) -> tuple[Task, list[tuple[float, ...]]]:
    """Make the support task, and the distribution each label was drawn from.

    Returns:
        The task of `generate`, and for each example the probability of every option.

    Raises:
        ConfigError: `num_examples` is not positive.
    """
    _check_number(num_examples)
    rng = random.Random(f"support messages {seed}")  # a bare int seed would forget its sign
    return _drawn("support", OPTIONS, num_examples, rng, _message)


def generate_tasks(num_examples: int, seed: int) -> tuple[Task, ...]:
    """Make the inboxes of a dozen places: a task each, every one with labels of its own.

    A message has one problem or, one time in six, two of different labels, of which the wording
    says which is probably the main one. A task does not depend on the others.

    Args:
        num_examples: Messages in each.
        seed: The same one always makes the same tasks.

    Raises:
        ConfigError: `num_examples` is not positive.
    """
    _check_number(num_examples)
    tasks = []
    for name, issues in INBOXES.items():
        rng = random.Random(f"{name} {seed}")
        write = partial(_letter, issues=issues)
        tasks.append(_drawn(name, tuple(issues), num_examples, rng, write)[0])
    return tuple(tasks)


def _check_number(num_examples: int) -> None:
    if num_examples < 1:
        raise ConfigError(f"num_examples is {num_examples}; give one or more")


def _drawn(
    name: str,
    options: tuple[str, ...],
    num_examples: int,
    rng: random.Random,
    write: Callable[[random.Random], tuple[str, Odds]],
) -> tuple[Task, list[tuple[float, ...]]]:
    """Write messages, and draw the label of each from its odds."""
    examples = []
    probabilities = []
    for number in range(1, num_examples + 1):
        text, odds = write(rng)
        total = sum(odds.values())
        chances = tuple(odds.get(option, 0.0) / total for option in options)
        (label,) = rng.choices(range(len(options)), weights=chances)
        where = f"generated message {number}"
        examples.append(Example(input=text, options=options, label=label, where=where))
        probabilities.append(chances)
    return Task(name, tuple(examples)), probabilities


def _message(rng: random.Random) -> tuple[str, Odds]:
    slots = {**phrases.SLOTS, "product": [rng.choice(phrases.PRODUCTS)]}
    (kind,) = rng.choices(list(_KINDS), weights=list(_KINDS.values()))
    problem, odds = kind(rng, slots)
    return _written(problem, rng, slots, (phrases.OPENERS, phrases.CLOSERS)), odds


def _written(
    problem: str, rng: random.Random, slots: Slots, talk: tuple[Sequence[str], Sequence[str]]
) -> str:
    """Put small talk around a problem, and write it down as somebody in a hurry does."""
    opener, closer = (
        _expand(rng.choice(choices), rng, slots) if rng.random() < _SMALL_TALK else ""
        for choices in talk
    )
    problem += rng.choice(".....!")
    text = _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), problem)
    if opener.endswith(("but", ",", ":")):
        text = text[0].lower() + text[1:]
    text = _LONE_I.sub("I", " ".join(f"{opener} {text} {closer}".split()))
    return rng.choice(_HABITS)(text, rng)


def _clear(rng: random.Random, slots: Slots) -> tuple[str, Odds]:
    label = rng.choice(OPTIONS)
    return _expand(rng.choice(phrases.ISSUES[label]), rng, slots), {label: 1}


def _ruled_out(rng: random.Random, slots: Slots) -> tuple[str, Odds]:
    label, other = rng.sample(OPTIONS, 2)
    slots = {**slots, "issue": phrases.ISSUES[label], "other": phrases.RULED_OUT[other]}
    return _expand(rng.choice(phrases.RULING_OUT), rng, slots), {label: 1}


def _two_problems(rng: random.Random, slots: Slots) -> tuple[str, Odds]:
    first, second = rng.sample(OPTIONS, 2)
    pattern, first_decides = rng.choice(phrases.TWO_PROBLEMS)
    slots = {**slots, "first": phrases.ISSUES[first], "second": phrases.ISSUES[second]}
    return _expand(pattern, rng, slots), {first: first_decides, second: 1 - first_decides}


def _borderline(rng: random.Random, slots: Slots) -> tuple[str, Odds]:
    pattern, odds = rng.choice(phrases.BORDERLINE)
    return _expand(pattern, rng, slots), odds


def _letter(rng: random.Random, issues: Mapping[str, Sequence[str]]) -> tuple[str, Odds]:
    """Write to another place than the shop."""
    first, second = rng.sample(tuple(issues), 2)
    if rng.random() < _SECOND_PROBLEM:
        pattern, first_decides = rng.choice(phrases.TWO_PROBLEMS)
        odds = {first: first_decides, second: 1 - first_decides}
    else:
        pattern, odds = "{first}", {first: 1.0}
    slots = {**phrases.SLOTS, "first": issues[first], "second": issues[second]}
    return _written(_expand(pattern, rng, slots), rng, slots, _TALK), odds


_KINDS: dict[Callable[[random.Random, Slots], tuple[str, Odds]], float] = {
    _clear: 0.68,
    _ruled_out: 0.1,
    _two_problems: 0.1,
    _borderline: 0.12,
}


def _expand(pattern: str, rng: random.Random, slots: Slots) -> str:
    """Make every choice and fill every slot, until none is left."""
    before = None
    while pattern != before:
        before = pattern
        pattern = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), pattern)
        pattern = _SLOT.sub(lambda match: rng.choice(slots[match[1]]), pattern)
    return " ".join(pattern.split()).replace(" ,", ",").replace(" .", ".")


def _careful(text: str, rng: random.Random) -> str:
    return text


def _lower_case(text: str, rng: random.Random) -> str:
    return text.lower()


def _unpunctuated(text: str, rng: random.Random) -> str:
    return text.replace("'", "").replace(",", "").rstrip(".")


def _abbreviated(text: str, rng: random.Random) -> str:
    return " ".join(_SHORTCUTS.get(word, word) for word in text.split())


def _mistyped(text: str, rng: random.Random) -> str:
    """Swap, drop or double a letter inside one or two of the words."""
    words = text.split()
    for _ in range(rng.choice((1, 1, 2))):
        position = rng.randrange(len(words))
        word = words[position]
        if len(word) > 3 and word.isalpha():
            at = rng.randrange(1, len(word) - 2)
            pair = word[at : at + 2]
            typo = rng.choice((pair[::-1], pair[0], pair[0] + pair))
            words[position] = word[:at] + typo + word[at + 2 :]
    return " ".join(words)


_HABITS = (
    _careful,
    _careful,
    _careful,
    _careful,
    _lower_case,
    _unpunctuated,
    _abbreviated,
    _mistyped,
)
