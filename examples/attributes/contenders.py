"""What is compared, each under its name: how it learns from train and dev, and then predicts.

    one-lora        one LoRA for everybody, stopped early on dev
    own-lora        a LoRA for each level of a set's groups, each stopped early on its dev rows
    bayesian-lora   the population of the next fit, asked without the rows' levels
    ours            a mean-field population, and deviations of all levels of all attributes
    m2a             M2A's published recipe with point weights, stopped early on dev
    m2a-no-...      the same without one of its parts

All start from the same backbone, are given the same labelled rows and may take the same number of
optimizer steps (own-lora twice as many, over all levels). LoRA has M2A's rank, but for own-lora,
which does worse with it than with the default. Who stops early holds a part of the rows back for
that: a fifth, or, where all rows of a set are given, the set's own dev rows. Who does not learns
from all. Test rows are given to `Learned.predict` alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from sets import Split, load

from bayes_lora import FitSettings, ModelSettings, Posterior, fit
from bayes_lora.adapters import Adapter, LoRA
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example, Task, level_of
from bayes_lora.errors import ConfigError
from bayes_lora.fusion import Fusion
from bayes_lora.guides import Family
from bayes_lora.inference.attributes import RECIPES
from bayes_lora.terms import Terms

# Of DATA, where each set lies.
FOLDERS = {
    "fdu-mtl": "fdu_mtl",
    "four-authors": "pang_lee_scaledata_4authors",
    "yelp": "yelp10k_users",
}
DRAWS = 10
# By set and rows of train (of a domain; None for all), or by set alone.
STEPS: dict[str | tuple[str, int | None], int] = {
    ("fdu-mtl", 100): 300,
    ("fdu-mtl", 400): 400,
    ("fdu-mtl", None): 1000,
    "four-authors": 400,
    "yelp": 500,
}
# Of the mean-field fits, which have no early stopping, where it is not the same number.
BAYESIAN_STEPS = {"four-authors": 200, "yelp": 250}
LEAST_STEPS = 40  # of a level's own LoRA
# The attribute whose levels split a set's rows into a few large groups, all of them in train.
GROUPS: dict[str, str | None] = {"fdu-mtl": "domain", "four-authors": "author", "yelp": None}
# What choose.py found best on dev rows.
M2A_RATE = 1e-3
ADAPTER = LoRA(rank=128)
KL_WEIGHTS = {("fdu-mtl", 100): 2.0}  # elsewhere 1, Bayes' rule

Predict = Callable[[Sequence[Example]], np.ndarray]


@dataclass(frozen=True)
class Given:
    """What all methods of one set, size and seed share.

    Args:
        name: The set's.
        size: Labelled rows, of each level of a group; None: all.
        seed: Of the choice of these rows, and of whatever is random in a fit.
        labelled: These rows.
        train: Of these, the ones to learn from for a method that stops early.
        dev: The others, to stop early on.
        backbone: The frozen backbone.
        steps: Optimizer steps.
    """

    name: str
    size: int | None
    seed: int
    labelled: Task
    train: Task
    dev: Task
    backbone: Backbone
    steps: int

    @property
    def settings(self) -> FitSettings:
        """The defaults, but for the number of steps."""
        return FitSettings(max_steps=self.steps, seed=self.seed)

    @property
    def group(self) -> str | None:
        """The attribute that splits the rows into large groups, if one does."""
        return GROUPS[self.name]


@dataclass(frozen=True)
class Learned:
    """A method after its fit.

    Args:
        predict: Gives probabilities of rows' options, ``[n, options]``.
        found: What else the fit says, for its JSON.
    """

    predict: Predict
    found: dict[str, Any] = field(default_factory=dict)


def read_given(
    name: str, data: Path, size: int | None, seed: int, backbone: Backbone
) -> tuple[Given, Task]:
    """Read a set: what methods learn from, and the test rows."""
    split = load(name, data / FOLDERS[name], seed, size)
    parts = _all_rows(split) if size is None else _a_fifth_held_back(split.train, seed)
    return Given(name, size, seed, *parts, backbone, steps_of(name, size)), split.test


def steps_of(name: str, size: int | None) -> int:
    """Say how many steps a set's methods take.

    Raises:
        ConfigError: None was set for that size.
    """
    found = STEPS.get((name, size), STEPS.get(name))
    if found is None:
        raise ConfigError(f"{name}: STEPS in contenders.py has no number for size {size}; add it.")
    return found


def one_lora(given: Given) -> dict[str, Learned]:
    """Fit one LoRA to all rows, as points."""
    return {"one-lora": points(given)}


def points(given: Given, adapter: Adapter = ADAPTER) -> Learned:
    """Fit what `one_lora` asks."""
    posterior = fit(
        [given.train],
        given.backbone,
        guide="mle",
        adapter=adapter,
        settings=given.settings,
        dev=[given.dev],
    )
    return Learned(_asks(posterior))


def own_lora(given: Given) -> dict[str, Learned]:
    """Fit a LoRA to each level's rows alone; a level predicts its own rows."""
    assert given.group is not None
    group, places = given.group, _places(given.train.examples, given.group)
    steps = max(LEAST_STEPS, 2 * given.steps // len(places))
    settings = replace(given.settings, max_steps=steps)
    posteriors = {}
    for level in places:
        train, dev = (_of_level(task, group, level) for task in (given.train, given.dev))
        posteriors[level] = fit([train], given.backbone, guide="mle", settings=settings, dev=[dev])

    def predict(rows: Sequence[Example]) -> np.ndarray:
        probabilities = np.zeros((len(rows), len(rows[0].options)))
        for level, own in _places(rows, group).items():
            probabilities[own] = _asks(posteriors[level])([rows[i] for i in own])
        return probabilities

    return {"own-lora": Learned(predict, {"steps of a level": steps})}


def bayesian(given: Given) -> dict[str, Learned]:
    """Fit the population and all levels around it; each is asked.

    The fit's first part does not see levels, so that the population is what a fit without
    attributes gives.
    """
    posterior = fit_with_levels(given)
    return {
        "bayesian-lora": Learned(of_population(posterior), _steps(posterior)),
        "ours": of_levels(posterior),
    }


def fit_with_levels(given: Given) -> Posterior:
    """Fit what `bayesian` asks."""
    return mean_field(given, given.labelled.attributes)


def mean_field(
    given: Given,
    attributes: Sequence[str],
    adapter: Adapter = ADAPTER,
    kl_weight: float | None = None,
    steps: int | None = None,
    guide: str | Family = "mean-field",
    scale_rate: float | None = None,
) -> Posterior:
    """Fit a mean-field population, and the levels of these attributes."""
    weight = kl_weight or KL_WEIGHTS.get((given.name, given.size), 1.0)
    steps = steps or BAYESIAN_STEPS.get(given.name, given.steps)
    return fit(
        [given.labelled],
        given.backbone,
        guide=guide,
        adapter=adapter,
        model_settings=ModelSettings(kl_weight=weight),
        settings=replace(given.settings, max_steps=steps, scale_learning_rate=scale_rate),
        attributes=attributes,
    )


def of_population(posterior: Posterior) -> Predict:
    """Ask as if no row's level were known."""
    asks = _asks(posterior)
    return lambda rows: asks([replace(row, attributes={}) for row in rows])


def of_levels(posterior: Posterior) -> Learned:
    """Ask with the rows' levels; one that training did not see is a draw from the prior."""
    found = {"KL weight": posterior.model.kl_weight, "spread": spread(posterior)}
    return Learned(_asks(posterior, unknown="prior"), found | _steps(posterior))


def _steps(posterior: Posterior) -> dict[str, int]:
    """Say how many steps a fit took, where it is not the number that the set's methods take."""
    return {"steps": posterior.config.fit["max_steps"]}


def spread(posterior: Posterior) -> dict[str, dict[str, Any]]:
    """Say how far each attribute's levels differ: tau with its interval, in nats of a logit."""
    return {
        effect.levels.attribute: {
            "tau": round(float(effect.tau), 4),
            "interval": [round(end, 4) for end in effect.interval.tolist()],
            "coordinates": effect.width,
            "levels": len(effect.levels),
        }
        for effect in posterior.model.by_level.values()
    }


def m2a(given: Given, *, rate: float = M2A_RATE, **changes: Any) -> Learned:
    """Fit M2A's recipe, or the recipe with other attribute settings."""
    recipe = RECIPES["m2a"](given.train.attributes)
    # Separation changes only what predicts rows without a known level: groups have none.
    separation = 0 if given.group else recipe["attributes"].separation
    recipe["attributes"] = replace(recipe["attributes"], **{"separation": separation} | changes)
    recipe["settings"] = replace(
        recipe["settings"],
        epochs=None,
        max_steps=given.steps,
        learning_rate=rate,
        seed=given.seed,
    )
    posterior = fit([given.train], given.backbone, dev=[given.dev], **recipe)
    return Learned(_asks(posterior), {"learning rate": rate})


# Of the published recipe, as `m2a` changes it.
ABLATIONS: dict[str, dict[str, Any]] = {
    # One view is left, and the sum of one is its average.
    "m2a-no-coarse": {
        "population": False,
        "fusion": Fusion.SUM,
        "terms": Terms(reconstruction=0.5),
    },
    "m2a-no-fine": {"columns": (), "terms": Terms(reconstruction=0.5)},
    "m2a-no-reconstruction": {"terms": Terms(distillation=True)},
    "m2a-no-distillation": {"terms": Terms(reconstruction=0.5)},
}


def _m2a(name: str) -> Callable[[Given], dict[str, Learned]]:
    return lambda given: {name: m2a(given, **ABLATIONS.get(name, {}))}


METHODS: dict[str, Callable[[Given], dict[str, Learned]]] = {
    "one-lora": one_lora,
    "own-lora": own_lora,
    "bayesian-lora": bayesian,
    "ours": bayesian,
    **{name: _m2a(name) for name in ("m2a", *ABLATIONS)},
}


def methods_of(name: str) -> list[str]:
    """List the methods that a set is there for."""
    if GROUPS[name] is None:
        return [method for method in METHODS if method not in ("own-lora", *ABLATIONS)]
    return [method for method in METHODS if name == "fdu-mtl" or method not in ABLATIONS]


def _asks(posterior: Posterior, unknown: str = "population") -> Predict:
    seed = posterior.config.seed

    def predict(rows: Sequence[Example]) -> np.ndarray:
        return posterior.predict(rows, draws=DRAWS, seed=seed, unknown=unknown).probabilities

    return predict


def _all_rows(split: Split) -> tuple[Task, Task, Task]:
    """Give train and dev together, and each."""
    both = (*split.train.examples, *split.dev.examples)
    return replace(split.train, examples=both), split.train, split.dev


def _a_fifth_held_back(labelled: Task, seed: int) -> tuple[Task, Task, Task]:
    """Give all rows, those to learn from and those to stop on."""
    order = np.random.default_rng(seed).permutation(len(labelled))
    back = set(order[: len(labelled) // 5].tolist())
    numbered = list(enumerate(labelled.examples))
    train = tuple(row for n, row in numbered if n not in back)
    dev = tuple(row for n, row in numbered if n in back)
    return labelled, replace(labelled, examples=train), replace(labelled, examples=dev)


def _places(rows: Sequence[Example], attribute: str) -> dict[str, list[int]]:
    """Say where each level's rows are."""
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(level_of(row, attribute), []).append(place)
    return places


def _of_level(task: Task, attribute: str, level: str) -> Task:
    """Keep the rows of a level."""
    own = (row for row in task.examples if level_of(row, attribute) == level)
    return replace(task, examples=tuple(own))
