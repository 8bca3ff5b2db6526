"""Which adapters the levels of an attribute can have, and what it is refused for the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_conformance import ADAPTERS, make_task

from bayes_lora import FitSettings, Posterior, Task, fit, load_backbone
from bayes_lora.adapters import LoRA
from bayes_lora.errors import ConfigError
from bayes_lora.inference.attributes import AttributeSettings

SETTINGS = FitSettings(max_steps=8, batch_size=8, learning_rate=0.05, seed=1)
NO_LEVELS = ("dora", "lora-pissa")
SHARED_AT_ZERO = ("mtl-lora",)
POINTS = [name for name in ADAPTERS if name not in NO_LEVELS]
DRAWN = [name for name in POINTS if name not in SHARED_AT_ZERO]


def by_user() -> Task:
    """Two users; the second has turned labels, so that there is something to learn of them."""
    task = make_task(24)
    examples = []
    for row, own in enumerate(task.examples):
        user = row // 2 % 2
        label = own.label if user == 0 else 1 - own.label
        examples.append(replace(own, label=label, attributes={"user": f"user {user}"}))
    return replace(task, examples=tuple(examples))


def fitted(name: str, guide: str, folder: Path) -> Posterior:
    return fit(
        [by_user()],
        load_backbone(str(folder / "tiny-encoder")),
        adapter=LoRA(rank=2),
        guide=guide,
        settings=SETTINGS,
        attributes=AttributeSettings(("user",), ADAPTERS[name]),
    )


@pytest.mark.parametrize(
    ("name", "guide"),
    [*((name, "mle") for name in POINTS), *((name, "mean-field") for name in DRAWN)],
)
def test_levels_deviate_and_rows_do_not_see_each_other(
    name: str, guide: str, tiny_folders: Path, tmp_path: Path
) -> None:
    posterior = fitted(name, guide, tiny_folders)
    (table,) = posterior.guide.by_level.values()
    assert (table.loc[0] - table.loc[1]).abs().max() > 0
    (effect,) = posterior.model.by_level.values()
    own = effect.factors(torch.zeros(1, effect.width))
    assert {key[2] for key in own} >= ADAPTERS[name].level_factors
    examples = by_user().examples[:6]
    together = posterior.predict(examples, draws=2).probabilities
    for example, expected in zip(examples, together, strict=True):
        alone = posterior.predict([example], draws=2).probabilities[0]
        np.testing.assert_allclose(alone, expected, atol=1e-5)
    turned = [replace(own, attributes={"user": "user 1"}) for own in examples]
    assert np.abs(posterior.predict(turned, draws=2).probabilities - together).max() > 0
    posterior.save_pretrained(tmp_path / "run")
    again = Posterior.from_pretrained(tmp_path / "run").predict(examples, draws=2).probabilities
    assert np.array_equal(again, together)


@pytest.mark.parametrize("name", NO_LEVELS)
def test_an_adapter_whose_updates_do_not_add_up_has_no_levels(
    name: str, tiny_folders: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no factors in which the levels of 'user' could differ"):
        fitted(name, "mle", tiny_folders)


@pytest.mark.parametrize("name", SHARED_AT_ZERO)
def test_what_levels_share_must_be_learned_where_it_starts_at_zero(
    name: str, tiny_folders: Path
) -> None:
    with pytest.raises(ConfigError, match=r"fit it with points \('mle' or 'map'\)"):
        fitted(name, "mean-field", tiny_folders)
