"""The same checks of levels for every adapter, guide, backbone and scorer; see the lists."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from test_conformance import SETTINGS, _path, make_choices, make_task

from bayes_lora import Posterior, fit, load_backbone
from bayes_lora.adapters import Adapter, KronA, LoRA
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example
from bayes_lora.errors import DataWarning
from bayes_lora.guides import LevelNormals
from bayes_lora.inference.attributes import AttributeSettings
from bayes_lora.level_draws import Unknown

ADAPTERS: dict[str, Adapter] = {"lora": LoRA(rank=2), "krona": KronA()}
SETUPS = {
    "tiny-encoder": ("class-head", "similarity"),
    "tiny-decoder": ("class-head", "likelihood"),
    "tiny-encoder-decoder": ("likelihood",),
    "minilm": ("class-head", "similarity"),
}
WITH_LEVELS = ("mean-field", "map", "mle")  # the guides that have posteriors of levels
CASES = [
    f"{name} {scorer} {adapter} {guide}"
    for name, scorers in SETUPS.items()
    for scorer in scorers
    for adapter in ADAPTERS
    for guide in WITH_LEVELS
]
COLUMNS = ("user", "item")
TOLERANCE = 1e-5  # of batches in float32


class Case:
    """A fit of a few steps to two attributes, one value missing, and all it was fitted to."""

    def __init__(self, backbone: str, scorer: str, adapter: Adapter, guide: str) -> None:
        self.random = guide == "mean-field"
        tasks = [make_task(12)] if scorer == "class-head" else [make_task(8), make_choices(4)]
        levels = map(_levels, count())
        tasks = [
            replace(task, examples=tuple(map(_with_levels, task.examples, levels)))
            for task in tasks
        ]
        self.examples = [example for task in tasks for example in task.examples]
        with pytest.warns(DataWarning, match="1 row has no value"):
            self.posterior = fit(
                tasks,
                _backbone(backbone),
                scorer=scorer,
                adapter=LoRA(rank=2),
                guide=guide,
                settings=SETTINGS,
                attributes=AttributeSettings(COLUMNS, adapter),
            )
        self.expected = self.predict(self.examples)

    def predict(self, examples: Sequence[Example], tokens: int | None = None) -> np.ndarray:
        """Probabilities under each draw, ``[draws, n, options]``."""
        found = self.posterior.predict(examples, draws=3, keep_draws=True, tokens_per_pass=tokens)
        assert found.per_draw is not None
        return found.per_draw


def _levels(i: int) -> Mapping[str, str]:
    """Users and items in turns; the third row has no user."""
    return {"user": "" if i == 2 else f"user {i % 4}", "item": f"item {i % 3}"}


def _with_levels(example: Example, levels: Mapping[str, str]) -> Example:
    return replace(example, attributes=levels)


@cache
def _backbone(name: str) -> Backbone:
    """Frozen, so that one does for all cases."""
    return load_backbone(name)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tiny_folders: Path) -> Case:
    name, scorer, adapter, guide = request.param.split()
    return Case(_path(name, request, tiny_folders), scorer, ADAPTERS[adapter], guide)


def test_probabilities_sum_to_one_and_vary_where_the_guide_does(case: Case) -> None:
    np.testing.assert_allclose(case.expected.sum(2), 1, atol=1e-9)
    assert len(case.expected) == (3 if case.random else 1)
    assert (case.expected.std(0).max() > 0) == case.random
    for table in case.posterior.guide.by_level.values():
        everyone = torch.arange(len(table.loc))
        assert bool((table.scale(everyone) > 0).all()) == case.random
        assert isinstance(table, LevelNormals) == case.random


def test_every_level_learns(case: Case) -> None:
    for name, table in case.posterior.guide.by_level.items():
        assert len(table.loc) == len(case.posterior.model.by_level[name].levels)
        assert bool(table.loc.any(1).all())
        assert bool(table.loc.isfinite().all())


def test_a_reloaded_run_predicts_the_same(case: Case, tmp_path: Path) -> None:
    case.posterior.save_pretrained(tmp_path / "run")
    loaded = Posterior.from_pretrained(tmp_path / "run")
    assert loaded.config == case.posterior.config
    after = loaded.predict(case.examples, draws=3, keep_draws=True).per_draw
    assert np.array_equal(after, case.expected), "reloaded: not bitwise equal"
    strangers = [replace(example, attributes={}) for example in case.examples]
    for unknown in Unknown:
        before, after = (
            posterior.predict(strangers[:3], draws=2, unknown=unknown).probabilities
            for posterior in (case.posterior, loaded)
        )
        assert np.array_equal(before, after)


def test_batches_and_order_do_not_matter(case: Case) -> None:
    backwards = case.predict(case.examples[::-1], tokens=150)[:, ::-1]
    np.testing.assert_allclose(backwards, case.expected, atol=TOLERANCE)
    for i in (2, len(case.examples) - 1):
        alone = case.predict(case.examples[i : i + 1])[:, 0]
        expected = case.expected[:, i, : alone.shape[1]]
        np.testing.assert_allclose(alone, expected, atol=TOLERANCE)


def test_a_row_does_not_see_another_rows_level(case: Case) -> None:
    """Rows with another user change, all others do not."""
    changed = [
        replace(example, attributes={**example.attributes, "user": "user 1"})
        if i % 4 == 3
        else example
        for i, example in enumerate(case.examples)
    ]
    moved = np.abs(case.predict(changed) - case.expected).max((0, 2))
    other = np.arange(len(changed)) % 4 == 3
    assert moved[~other].max() < TOLERANCE
    assert moved[other].max() > 0


def test_levels_and_their_counts_are_those_of_all_tasks(case: Case) -> None:
    known = [effect.levels.names for effect in case.posterior.model.by_level.values()]
    assert known == [tuple(f"user {i}" for i in range(4)), tuple(f"item {i}" for i in range(3))]
    of_rows = [_levels(i) for i in range(len(case.examples))]
    for own, counts in zip(of_rows, case.posterior.level_counts(case.examples), strict=True):
        for name, level in own.items():
            same = sum(other[name] == level for other in of_rows)
            assert counts[name] == (same if level else 0)
