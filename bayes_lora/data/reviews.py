"""The task `bayes-lora demo` makes for itself whose users differ: how do they rate a cafe or hotel?

Reviews of imaginary cafes and hotels are built by a seeded random grammar from the phrases below;
nothing is copied from anywhere. A review says two things, each worth from -2 (awful) to 2
(excellent); its quality is their sum. Beside them stands small talk, which bears on nothing.

The rating is drawn from an ordered logistic distribution: with L logistic of scale `NOISE`,
``quality - severity + L`` is "poor" below the first of `CUTS`, "good" above the second, else
"fair". Severity is its user's own, Normal with standard deviation `SEVERITY`: what a mild user
calls good, a severe one calls poor. It is nowhere in the text.

Who reads quality off the text without fault, and knows the rest of the above, but not the user,
reaches a mean negative log-likelihood of about 0.82 at an accuracy of about 0.66; who knows each
user's severity too, about 0.18 at 0.924. A severity learned from a few rows is worth less.
"""

import math
import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import NormalDist, fmean

from bayes_lora.data.task import Example, Task
from bayes_lora.errors import ConfigError

OPTIONS = ("poor", "fair", "good")
CUTS = (-1.0, 1.0)  # in points of quality, as the two below
SEVERITY = 3.0
NOISE = 0.3
ACTIVITY = 1.1  # of the log-normal number of reviews that a user writes
SAID = 2  # things in a review
STEPS = 200  # of the numerical integral over severities

# {thing} is one of the place's.
VERDICTS = {
    -2: (
        "the {thing} was [awful|dreadful|terrible|a disgrace]",
        "i have never [had|known|come across] a worse {thing}",
        "the {thing} was [the worst|by far the worst] in town",
        "everything about the {thing} was [horrible|disgusting]",
    ),
    -1: (
        "the {thing} was [rather poor|a bit disappointing|below average]",
        "i had [expected|hoped for] a better {thing}",
        "the {thing} was not [very good|quite what it should be]",
        "the {thing} could do with some [care|work]",
    ),
    0: (
        "the {thing} was [all right|average|so-so|nothing special]",
        "the {thing} was neither good nor bad",
        "about the {thing} there is [little|not much] to say either way",
        "the {thing} was what one gets [anywhere|everywhere]",
    ),
    1: (
        "the {thing} was [good|nice|pleasant|quite good]",
        "i [liked|enjoyed] the {thing}",
        "the {thing} was better than [expected|average]",
        "there is nothing wrong with the {thing}, it was [good|fine]",
    ),
    2: (
        "the {thing} was [excellent|wonderful|perfect|superb]",
        "i have never [had|known|come across] a better {thing}",
        "the {thing} was [the best|by far the best] in town",
        "i absolutely loved the {thing}",
    ),
}

THINGS = {
    "cafe": (
        "coffee", "tea", "cake", "sandwich", "breakfast", "soup", "service", "terrace", "menu",
        "hot chocolate", "omelette", "lemonade", "cheesecake", "milkshake",
    ),
    "hotel": (
        "room", "bed", "shower", "breakfast", "service", "view", "pool", "lobby", "garden",
        "mattress", "bathroom", "bar", "gym", "dinner",
    ),
}  # fmt: skip

OPENERS = (
    "[We|I] came here [on {weekday}|last week|for the first time].",
    "My [sister|brother|boss|neighbour] [took|sent] me to this {place}.",
    "[A|This] {place} [by the station|near the harbour|behind the market|in the old town].",
    "It rained all [day|morning|weekend].",
    "I was [in town|here] for [work|a wedding|the weekend].",
    "[We were four|We were two|I was alone].",
    "I [live|work] round the corner.",
)

CLOSERS = (
    "They [close|open] at [seven|eight|nine|ten].",
    "I paid by card.",
    "We [left|went home] by [bus|train|bike].",
    "[Dogs|Children] are allowed.",
    "The tram stops [at the door|across the street].",
    "I am writing this on the [train|bus].",
    "It was a {weekday}.",
)

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SMALL_TALK = 0.3


@dataclass(frozen=True)
class Reviews:
    """A task, and the distributions that an all-knowing reader would give its rows.

    Args:
        task: The reviews and ratings.
        by_user: Of each row the probability of every option, given the text and the user.
        by_text: The same given the text alone: the mean over severities.
    """

    task: Task
    by_user: list[tuple[float, ...]]
    by_text: list[tuple[float, ...]]


def generate_reviews(
    num_users: int, num_rows: int, seed: int, *, unseen: int | None = None
) -> Task:
    """Make the reviews of some users, with the attribute ``user``, such as "user 07".

    Args:
        num_users: Users, at least one. Their habits depend on the seed alone.
        num_rows: Reviews. The first ones are of every user once; more come from users as they
            are wont to write: a few wrote many, many wrote a few.
        seed: The same arguments always make the same task.
        unseen: None makes a task to learn from. A number makes one to test on: other reviews of
            the same users and of so many more, who all write equally often.

    Raises:
        ConfigError: There is no user, a negative number of them, or not a row for each.
    """
    return generate_reviews_with_probabilities(num_users, num_rows, seed, unseen=unseen).task


def generate_reviews_with_probabilities(
    num_users: int, num_rows: int, seed: int, *, unseen: int | None = None
) -> Reviews:
    """Make the task of `generate_reviews`, and the distributions its labels were drawn from.

    Raises:
        ConfigError: There is no user, a negative number of them, or not a row for each.
    """
    _check_numbers(num_users, num_rows, unseen)
    part = "train" if unseen is None else "test"
    rng = random.Random(f"{part} reviews {seed}")  # a bare int seed would forget its sign
    examples, by_user, by_text = [], [], []
    for number, user in enumerate(_writers(num_users, num_rows, seed, unseen, rng), start=1):
        text, quality = _review(rng)
        by_user.append(_chances(quality - _severity(user, seed)))
        by_text.append(_mean_chances(quality))
        (label,) = rng.choices(range(len(OPTIONS)), weights=by_user[-1])
        examples.append(_example(text, label, user, f"generated {part} review {number}"))
    return Reviews(Task("reviews", tuple(examples), split=part), by_user, by_text)


def _example(text: str, label: int, user: str, where: str) -> Example:
    return Example(input=text, options=OPTIONS, label=label, attributes={"user": user}, where=where)


def _check_numbers(num_users: int, num_rows: int, unseen: int | None) -> None:
    if num_users < 1 or (unseen or 0) < 0:
        raise ConfigError(f"num_users is {num_users} and unseen {unseen}; give one user or more")
    users = num_users + (unseen or 0)
    if num_rows < users:
        raise ConfigError(f"num_rows is {num_rows} for {users} users; give each a row")


def _writers(
    num_users: int, num_rows: int, seed: int, unseen: int | None, rng: random.Random
) -> list[str]:
    """Say who writes each review: everybody once, then whoever does."""
    users = [f"user {number:02}" for number in range(1, num_users + (unseen or 0) + 1)]
    weights = [_activity(user, seed) if unseen is None else 1.0 for user in users]
    first = rng.sample(users, len(users))
    return first + rng.choices(users, weights, k=num_rows - len(users))


def _activity(user: str, seed: int) -> float:
    return random.Random(f"activity of {user} {seed}").lognormvariate(0, ACTIVITY)


def _severity(user: str, seed: int) -> float:
    return random.Random(f"severity of {user} {seed}").gauss(0, SEVERITY)


def _chances(seen: float) -> tuple[float, ...]:
    """Give the probability of each option, where ``seen`` is quality less severity."""
    above = [1.0, *(_logistic((seen - cut) / NOISE) for cut in CUTS), 0.0]
    return tuple(more - most for more, most in pairwise(above))


def _logistic(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2


@cache
def _mean_chances(quality: int) -> tuple[float, ...]:
    """Average the chances over severities."""
    normal = NormalDist(0, SEVERITY)
    severities = [normal.inv_cdf((step + 0.5) / STEPS) for step in range(STEPS)]
    of_each = [_chances(quality - severity) for severity in severities]
    return tuple(map(fmean, zip(*of_each, strict=True)))


def _review(rng: random.Random) -> tuple[str, int]:
    """Write a review; beside it, its quality."""
    place = rng.choice(list(THINGS))
    level = rng.choice(list(VERDICTS))
    # What is good about a place is seldom beside what is awful.
    values = [max(-2, min(2, level + rng.choice((-1, 0, 0, 1)))) for _ in range(SAID)]
    said = (
        _sentence(rng.choice(VERDICTS[value]).replace("{thing}", thing))
        for value, thing in zip(values, rng.sample(THINGS[place], SAID), strict=True)
    )
    opener, closer = (
        rng.choice(talk) if rng.random() < _SMALL_TALK else "" for talk in (OPENERS, CLOSERS)
    )
    text = _CHOICE.sub(
        lambda match: rng.choice(match[1].split("|")), " ".join((opener, *said, closer))
    )
    return text.strip().format(place=place, weekday=rng.choice(WEEKDAYS)), sum(values)


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."
