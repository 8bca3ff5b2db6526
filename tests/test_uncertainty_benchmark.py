"""examples/uncertainty_benchmark: what is judged is not learned, fits are shared, ranks right."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "uncertainty_benchmark"
GIVEN = {
    "sst2-200": 200,
    "sst2-500": 500,
    "mr-500": 500,
    "trec-500": 500,
    "subj-200": 200,
    "clinc150": 1500,
    "openbookqa-500": 500,
}


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The scripts; other examples have modules of these names too, which come back after."""
    names = ("contenders", "page", "run", "sets")
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import contenders
        import page
        import run
        import sets

        yield SimpleNamespace(contenders=contenders, page=page, run=run, sets=sets)
    for name in names:
        del sys.modules[name]
    sys.modules.update(others)


def texts(*tasks: Any) -> set[str]:
    return {example.input for task in tasks for example in task.examples}


@pytest.mark.parametrize("name", GIVEN)
def test_a_set_on_the_real_files(scripts: SimpleNamespace, name: str, data_folder: Path) -> None:
    sets = scripts.sets
    test, again, other = (sets.load(name, data_folder, seed) for seed in (0, 0, 1))
    development = sets.load(name, data_folder, 0, development=True)
    for own in (test, development):
        assert len(own.given) == GIVEN[name]
        assert 200 < len(own.judged) <= sets.CAP
        assert not texts(own.given) & texts(own.judged, *own.shifted.values())
        assert not texts(own.given, own.judged) & texts(*own.outside.values())
        assert all(example.label is not None for example in own.judged.examples)
    assert not texts(development.judged, development.given) & texts(test.judged)
    assert test.given == again.given
    assert test.judged == other.judged
    assert len(texts(test.given) & texts(other.given)) < len(test.given)
    train, held = sets.held_back(test.given, 0)
    assert len(held) == pytest.approx(0.2 * len(test.given), abs=3)
    assert not texts(train) & texts(held)


def test_all_sets_are_here(scripts: SimpleNamespace) -> None:
    assert list(scripts.sets.SETS) == list(GIVEN)


def test_what_differs_in_prediction_alone_is_fitted_once(scripts: SimpleNamespace) -> None:
    groups = scripts.run.together(scripts.contenders.CONTENDERS)
    assert ["mle-early", "mle-early-temperature"] in groups
    assert ["mean-field", "mean-field-10-draws", "mean-field-2-draws"] in groups
    assert {own for group in groups for own in group} == set(scripts.contenders.CONTENDERS)


def test_ranks_and_averages_are_those_counted_by_hand(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    figures = {  # NLL by set, of two seeds; "svgd" is no single fit, "swag" was not run on all sets
        "mle": {"sst2-200": (0.9, 1.1), "trec-500": (0.5, 0.7)},
        "mean-field": {"sst2-200": (0.4, 0.6), "trec-500": (0.7, 0.9)},
        "swag": {"sst2-200": (0.1, 0.1)},
        "svgd": {"sst2-200": (0.3, 0.3), "trec-500": (0.1, 0.3)},
    }
    for method, by_set in figures.items():
        for name, values in by_set.items():
            for seed, value in enumerate(values):
                path = tmp_path / name / str(seed) / f"{method}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(a_result(name, seed, method, value)))
    page = scripts.page
    rows = {row[0]: row[1:] for row in page.by_set(page.read(tmp_path), page.FIGURES[0])}
    assert rows["method"] == ["sst2-200", "trec-500", "average", "mean rank", "of single fits"]
    assert rows["mle"][2:] == ["0.800", "2.5", "1.5"]
    assert rows["mean-field"][2:] == ["0.650", "2.5", "1.5"]
    assert rows["svgd"][2:] == ["0.250", "1.0", "-"]
    assert rows["swag"][1:] == ["-", "-", "-", "-"]
    assert rows["mean-field"][0] == "0.500 ± 1.271"  # 12.706 of Student's t times 0.1
    assert "| mean-field |" in page.write_page(tmp_path)


def a_result(name: str, seed: int, method: str, value: float) -> dict[str, Any]:
    test = {"nll": value, "accuracy": 0.5, "ece": 0.1, "brier": 0.2, "auroc": None, "aurc": 0.3}
    return {
        "set": name,
        "seed": seed,
        "method": method,
        "test": test,
        "fit": {"seconds": 1.0, "mebibytes": 0.0},
        "predicting": 1.0,
    }
