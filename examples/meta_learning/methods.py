"""What is compared: ABMLL, the baselines it has to beat, and two floors, each under its name.

All start from the same backbone with the same adapter, see the same support sets and queries, and
are tuned on the same meta-dev tasks: how many steps to take on a new task is chosen there, and so
is how sure the scorer makes (but for `zero-shot`, and for `lora`, which stays as sure as it is).
"""

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any
from unittest.mock import patch

import numpy as np
from suites import MOST_QUERIES, Suite
from torch import Tensor

from bayes_lora import Posterior
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example
from bayes_lora.meta import EpisodeSettings, MetaPosterior, MetaSettings, meta_fit
from bayes_lora.meta.development import dev_nlls
from bayes_lora.meta.episodes import development_episodes
from bayes_lora.meta.meta_fit import POOLED
from bayes_lora.meta.tuning import last_better, on_dev, surely_better, tuned
from bayes_lora.scorers.pooled import PooledScorer

DRAWS = 3
STEPS = (0, 4, 12)  # on a new task, chosen among on meta-dev
STEPS_ALONE = (4, 12, 40)  # from an adapter that knows nothing
PUBLISHED_RATES = ((1e-5, 5e-5), (2e-3, 1e-3))  # of a task's weights and theta's; the paper's first
Predict = Callable[[Sequence[Sequence[Example]], Sequence[Example]], list[np.ndarray]]


@dataclass(frozen=True)
class Budget:
    """How long a suite trains.

    Args:
        max_steps: Meta-steps; half as many for Reptile and ABMLL as published, each of whose takes
            three or five gradient steps. A third more for ABMLL, which goes on by episodes from
            where the multi-task adapter ends.
        tasks_per_step: Tasks side by side in one.
        support: Sizes of support sets in training episodes.
        query: Queries in one.
        max_length: Tokens a text is cut to.
    """

    max_steps: int
    tasks_per_step: int
    support: tuple[int, ...]
    query: int
    max_length: int

    def settings(self, suite: Suite, seed: int, method: str, **changes: Any) -> MetaSettings:
        """Make a method's settings."""
        given: dict[str, Any] = {
            "episodes": EpisodeSettings(self.support, self.query, suite.per_class),
            "tasks_per_step": self.tasks_per_step,
            "max_steps": self.max_steps,
            "evaluations": 2,
            "seed": seed,
        }
        return MetaSettings(method=method, **given | changes)


BUDGETS = {
    "class_to_class": Budget(80, 8, (16,), 24, 96),
    "multiple_choice": Budget(60, 7, (0, 4, 16), 16, 96),
    "fdu_mtl": Budget(120, 5, (1, 4), 16, 64),
    "clinc150": Budget(90, 5, (1, 5), 24, 48),
    "unifiedqa": Budget(60, 2, (0, 4, 16), 24, 96),
}
# Steps on a training task's support, whose sets are then the smallest.
TRAIN_STEPS = 3
JUDGED = 4  # steps on meta-dev tasks while ABMLL trains
# Raised by hand whenever code that methods share changes what they give: all is run again then.
VERSION = 2


def protocol(suite: Suite, dtype: str) -> dict[str, Any]:
    """Describe what a method's result depends on, besides the method, the fold and the seed."""
    described = asdict(BUDGETS[suite.name])
    described |= {"draws": DRAWS, "steps": STEPS, "steps alone": STEPS_ALONE}
    described |= {"training steps": TRAIN_STEPS, "judged": JUDGED, "published": PUBLISHED_RATES}
    described |= {"queries": MOST_QUERIES, "version": VERSION, "dtype": dtype}
    return json.loads(json.dumps(described))


class Learner:
    """One fold's methods for one meta-training seed; what several of them share is made once.

    Args:
        suite: The fold.
        backbone: The frozen backbone.
        seed: Of everything learned from other tasks.
        chosen: What an earlier seed chose on the meta-dev tasks, by method; it is kept.
    """

    def __init__(
        self,
        suite: Suite,
        backbone: Backbone,
        seed: int,
        chosen: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.suite = suite
        self.backbone = backbone
        self.seed = seed
        self.budget = BUDGETS[suite.name]
        self.known = chosen or {}
        self.chosen: dict[str, dict[str, Any]] = {}

    def predict(self, method: str) -> Predict:
        """Learn a method, and return what answers queries after seeing supports."""
        if method == "frequencies":
            return frequencies
        if method == "zero-shot":
            zero = Posterior.pretrained(self.backbone, "similarity")
            return lambda supports, queries: [zero.predict(queries).probabilities] * len(supports)
        learned = METHODS[method](self)
        settings = learned.config.settings
        self.chosen[method] = {
            "scorer": learned.config.scorer_name,
            "steps": settings.gradient_steps,
            "meta_steps": settings.max_steps,
            "tau": settings.tau,
            "learning_rate": settings.learning_rate,
            "dev_nll": learned.dev_nll,
        }
        return lambda supports, queries: answer(learned, supports, queries)

    def fit(
        self,
        method: str,
        scorer: str = "similarity",
        start: MetaPosterior | None = None,
        **changes: Any,
    ) -> MetaPosterior:
        """Meta-fit with the suite's budget."""
        settings = self.budget.settings(self.suite, self.seed, method, **changes)
        tasks, dev = self.suite.train, self.suite.dev
        return meta_fit(
            tasks, self.backbone, dev=dev, scorer=scorer, settings=settings, start=start
        )

    def stepwise(self, name: str, method: str, share: float = 1.0) -> MetaPosterior:
        """Meta-fit a baseline that takes steps in training too, for a share of the meta-steps."""
        episodes = EpisodeSettings((self.smallest,), self.budget.query, self.suite.per_class)
        changes = {"steps": TRAIN_STEPS, "train_steps": TRAIN_STEPS, "episodes": episodes}
        changes["max_steps"] = int(share * self.budget.max_steps)
        return self.tuned(name, self.fit(method, **changes))

    @property
    def smallest(self) -> int:
        """The smallest support that is one."""
        return min(size for size in self.budget.support if size)

    def tuned(
        self, name: str, learned: MetaPosterior, choices: tuple[int, ...] = STEPS
    ) -> MetaPosterior:
        """Take more steps for as long as that does better on the meta-dev tasks.

        They are asked with the suite's own episodes, whatever the training's were.
        """
        if name in self.known:
            choices = (self.known[name]["steps"],)
        return last_better(self.revised(learned, steps) for steps in choices)

    def revised(
        self, learned: MetaPosterior, steps: int, scorer: str | None = None, **changes: Any
    ) -> MetaPosterior:
        """The same theta with other steps on a new task, another scorer, or other settings."""
        episodes = EpisodeSettings(self.budget.support, self.budget.query, self.suite.per_class)
        settings = replace(learned.config.settings, steps=steps, episodes=episodes, **changes)
        return learned.revised(settings, dev=self.suite.dev, scorer=scorer)

    def alone(self) -> MetaPosterior:
        """LoRA on the support set; from other tasks, how many steps to take and how sure to be."""
        return self.tuned("lora + temperature", self.fit("lora", steps=0), STEPS_ALONE)

    def alone_as_it_is(self) -> MetaPosterior:
        """LoRA on the support set, as sure as it comes out; its steps are chosen as such."""
        return last_better(map(self._alone_for, STEPS_ALONE))

    def _alone_for(self, steps: int) -> MetaPosterior:
        settings = self.budget.settings(self.suite, self.seed, "lora", steps=steps)
        made = meta_fit(self.suite.train, self.backbone, scorer="similarity", settings=settings)
        model, dev = made.module.hierarchy.model, self.suite.dev
        asked = development_episodes(model, dev, settings.episodes)
        return MetaPosterior(made.module, made.config, dev_nlls(made.module, asked))

    @cached_property
    def multi_task(self) -> MetaPosterior:
        """One adapter for all training tasks' rows."""
        episodes = EpisodeSettings((0,), self.budget.query, self.suite.per_class)
        return self.fit("multi-task", steps=0, episodes=episodes)

    def points_with_head(self) -> MetaPosterior:
        """What ABMLL is without posteriors and episodes: its head, and steps of points."""
        name = "multi-task + discriminant head, then support"
        return self.tuned(name, self.revised(self.multi_task, 0, "discriminant"))

    def published(self) -> MetaPosterior:
        """ABMLL as published, with its learning rates or with ours."""
        known = self.known.get("abmll, as published", {}).get("learning_rate")
        sizes = tuple(size for size in self.budget.support if size)
        changes = {
            "steps": 5,
            "train_steps": 5,
            "max_steps": self.budget.max_steps // 2,
            "episodes": EpisodeSettings(sizes, self.budget.query, self.suite.per_class),
        }
        tried = [
            self.fit("abmll-published", learning_rate=inner, meta_learning_rate=outer, **changes)
            for inner, outer in PUBLISHED_RATES
            if known in (None, inner)
        ]
        return min(tried, key=on_dev)

    @cached_property
    def without_episodes(self) -> MetaPosterior:
        """ABMLL around the multi-task adapter.

        Its scorer is the default, unless meta-dev tasks say that the plain one is better.
        """
        known = self.known.get("abmll, gradient")
        if known:
            return self._around(known["scorer"])
        default, plain = map(self._around, ("discriminant", "similarity"))
        return plain if surely_better(plain, default) else default

    def _around(self, scorer: str) -> MetaPosterior:
        return self.revised(self.multi_task, JUDGED, scorer, method="abmll")

    def with_episodes(self, **changes: Any) -> MetaPosterior:
        """The same trained on: pooled rows had their share of the steps, episodes have the rest."""
        scorer = self.without_episodes.config.scorer_name
        steps = round(self.budget.max_steps * (1 / POOLED - 1))
        return self.fit("abmll", scorer, start=self.multi_task, max_steps=steps, **changes)

    def gradient(self) -> MetaPosterior:
        """ABMLL by gradient; meta-dev tasks say steps, then tau, and then whether episodes helped.

        The last is asked of what is then used: steps from elsewhere or another tau may make good
        what episodes spoilt.
        """
        both = self.without_episodes, self.with_episodes(steps=JUDGED)
        known = self.known.get("abmll, gradient")
        if known:
            steps, tau = known["steps"], known["tau"]
        else:
            best = tuned(min(both, key=on_dev), self.suite.dev, steps=STEPS)
            steps, tau = best.config.settings.gradient_steps, best.config.settings.tau
        return min((self.revised(one, steps, tau=tau) for one in both), key=on_dev)

    def encoder(self) -> MetaPosterior:
        """ABMLL by encoder, with the same scorer."""
        return self.with_episodes(amortization="encoder")


METHODS: dict[str, Callable[[Learner], MetaPosterior]] = {
    "frozen conjugate head": lambda own: own.fit("lora", "conjugate", steps=0),
    "frozen discriminant head": lambda own: own.fit("lora", "discriminant", steps=0),
    "lora": Learner.alone_as_it_is,
    "lora + temperature": Learner.alone,
    "multi-task": lambda own: own.multi_task,
    "multi-task, then support": lambda own: own.tuned("multi-task, then support", own.multi_task),
    "multi-task + conjugate head": lambda own: own.revised(own.multi_task, 0, "conjugate"),
    "multi-task + discriminant head": lambda own: own.revised(own.multi_task, 0, "discriminant"),
    "multi-task + discriminant head, then support": Learner.points_with_head,
    "reptile": lambda own: own.stepwise("reptile", "reptile", 0.5),
    "first-order MAML": lambda own: own.stepwise("first-order MAML", "fomaml"),
    "abmll, as published": Learner.published,
    "abmll, gradient": Learner.gradient,
    "abmll, encoder": Learner.encoder,
}

# Their predictions are the same whatever the support.
WITHOUT_SUPPORT = ("zero-shot", "multi-task")
# Nothing of these is learned from other tasks, but for how many steps to take and how sure to be.
ONCE = (
    "frequencies",
    "zero-shot",
    "frozen conjugate head",
    "frozen discriminant head",
    "lora",
    "lora + temperature",
)
NAMES = ("frequencies", "zero-shot", *METHODS)


def frequencies(
    supports: Sequence[Sequence[Example]], queries: Sequence[Example]
) -> list[np.ndarray]:
    """Answer with how often each option was right in the support, one added to each count."""
    found = []
    for support in supports:
        answers = [example.options[example.label] for example in support]
        counts = [[1 + answers.count(option) for option in query.options] for query in queries]
        found.append(padded([np.array(row) / sum(row) for row in counts]))
    return found


def padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stack rows of probabilities, zeros where one has fewer options than another."""
    out = np.zeros((len(rows), max(map(len, rows))))
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def answer(
    learned: MetaPosterior, supports: Sequence[Sequence[Example]], queries: Sequence[Example]
) -> list[np.ndarray]:
    """Adapt to all supports side by side, and answer the queries with each, drawn anew."""
    posteriors, first = learned.adapt_all(supports), learned.config.settings.seed * len(supports)
    alike = not learned.config.settings.gradient_steps and not posteriors[0].own.random
    same_weights = remembered(PooledScorer, "embed", ids_of) if alike else nullcontext()
    with remembered(Backbone, "encode", texts_of), same_weights:
        return [
            posterior.predict(queries, draws=DRAWS, seed=first + number).probabilities
            for number, posterior in enumerate(posteriors)
        ]


@contextmanager
def remembered(owner: type, name: str, key: Callable[..., Hashable]) -> Iterator[None]:
    """Inside the ``with`` block, call a method once for arguments of the same key."""
    method, known = getattr(owner, name), dict[Hashable, Any]()

    def once(*arguments: Any) -> Any:
        asked = key(*arguments)
        if asked not in known:
            known[asked] = method(*arguments)
        return known[asked]

    with patch.object(owner, name, once):
        yield


def texts_of(backbone: Backbone, texts: Sequence[str]) -> Hashable:
    """Tell what is tokenized from other texts."""
    return tuple(texts)


def ids_of(scorer: PooledScorer, backbone: Backbone, inputs: Mapping[str, Tensor]) -> Hashable:
    """Tell what is embedded, under weights that stay the same, from other batches."""
    ids = inputs["input_ids"]
    return (*ids.shape, ids.cpu().numpy().tobytes())
