"""The sets of examples/uncertainty_benchmark: nothing judged is learned from, or chosen by."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).parents[1] / "examples" / "uncertainty_benchmark" / "sets.py"
GIVEN = {
    "sst2-200": 200,
    "sst2-500": 500,
    "mr-500": 500,
    "trec-500": 500,
    "subj-200": 200,
    "clinc150": 1500,
    "openbookqa-500": 500,
}


@cache
def sets() -> ModuleType:
    # By its file: other examples have a module of that name too.
    spec = importlib.util.spec_from_file_location("uncertainty_sets", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(*tasks: Any) -> set[str]:
    return {example.input for task in tasks for example in task.examples}


@pytest.mark.parametrize("name", GIVEN)
def test_a_set_on_the_real_files(name: str, data_folder: Path) -> None:
    test, again, other = (sets().load(name, data_folder, seed) for seed in (0, 0, 1))
    development = sets().load(name, data_folder, 0, development=True)
    for own in (test, development):
        assert len(own.given) == GIVEN[name]
        assert 200 < len(own.judged) <= sets().CAP
        assert not texts(own.given) & texts(own.judged, *own.shifted.values())
        assert not texts(own.given, own.judged) & texts(*own.outside.values())
        assert all(example.label is not None for example in own.judged.examples)
    assert not texts(development.judged, development.given) & texts(test.judged)
    assert test.given == again.given
    assert test.judged == other.judged
    assert len(texts(test.given) & texts(other.given)) < len(test.given)
    train, held = sets().held_back(test.given, 0)
    assert len(held) == pytest.approx(0.2 * len(test.given), abs=3)
    assert not texts(train) & texts(held)


def test_all_sets_are_here() -> None:
    assert list(sets().SETS) == list(GIVEN)
