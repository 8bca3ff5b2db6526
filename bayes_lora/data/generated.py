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

from bayes_lora.data import phrases
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
    if num_examples < 1:
        raise ConfigError(f"num_examples is {num_examples}; give one or more")
    rng = random.Random(f"support messages {seed}")  # a bare int seed would forget its sign
    examples = []
    probabilities = []
    for number in range(1, num_examples + 1):
        text, odds = _message(rng)
        total = sum(odds.values())
        chances = tuple(odds.get(option, 0.0) / total for option in OPTIONS)
        (label,) = rng.choices(range(len(OPTIONS)), weights=chances)
        where = f"generated message {number}"
        examples.append(Example(input=text, options=OPTIONS, label=label, where=where))
        probabilities.append(chances)
    return Task("support", tuple(examples)), probabilities


def _message(rng: random.Random) -> tuple[str, Odds]:
    slots = {**phrases.SLOTS, "product": [rng.choice(phrases.PRODUCTS)]}
    (kind,) = rng.choices(list(_KINDS), weights=list(_KINDS.values()))
    problem, odds = kind(rng, slots)
    opener, closer = (
        _expand(rng.choice(talk), rng, slots) if rng.random() < _SMALL_TALK else ""
        for talk in (phrases.OPENERS, phrases.CLOSERS)
    )
    problem += rng.choice(".....!")
    text = _SENTENCE_START.sub(lambda match: match[1] + match[2].upper(), problem)
    if opener.endswith(("but", ",", ":")):
        text = text[0].lower() + text[1:]
    text = _LONE_I.sub("I", " ".join(f"{opener} {text} {closer}".split()))
    return rng.choice(_HABITS)(text, rng), odds


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
