"""The suites' table, against a direct computation on made-up figures."""

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "meta_learning"
OURS, OTHER, FLOOR = "abmll, gradient", "multi-task", "zero-shot"


@pytest.fixture(scope="module")
def table():
    sys.path.insert(0, str(FOLDER))
    try:
        import table

        return table
    finally:
        sys.path.remove(str(FOLDER))


def make_runs() -> list[dict]:
    """Six tasks in two folds, two support seeds; the floor is run for one meta-seed alone."""
    rng = np.random.default_rng(0)
    runs = []
    for method, seeds in ((OURS, (0, 1)), (OTHER, (0, 1)), (FLOOR, (0,))):
        for seed in seeds:
            for fold in ("1", "2"):
                cells = [
                    {"task": f"{fold}{task}", "size": size, "support_seed": support}
                    | dict(zip(("accuracy", "nll", "ece"), rng.random(3).tolist(), strict=True))
                    for task in "abc"
                    for size in (1, 4)
                    for support in (13, 21)
                ]
                runs.append({"method": method, "fold": fold, "seed": seed, "results": cells})
    return runs


def mean_of(runs: list[dict], method: str, size: int, metric: str) -> float:
    return float(
        np.mean(
            [
                cell[metric]
                for run in runs
                if run["method"] == method
                for cell in run["results"]
                if cell["size"] == size
            ]
        )
    )


def test_means_and_gains_are_those_of_the_cells(table) -> None:
    runs = make_runs()
    cells = table.collect(runs)
    rows = {(r["method"], r["size"]): r for m in cells for r in table.method_rows(m, cells)}
    for method in (OURS, OTHER, FLOOR):
        for size in (1, 4):
            for metric in ("accuracy", "nll", "ece"):
                row = rows[method, size]
                assert row[metric][0] == pytest.approx(mean_of(runs, method, size, metric))
                if method != OURS:
                    gain = mean_of(runs, OURS, size, metric) - row[metric][0]
                    assert row[f"{metric} gained"][0] == pytest.approx(gain)


def test_a_method_run_once_stands_for_every_meta_seed(table) -> None:
    cells = table.collect(make_runs())
    values = cells[FLOOR][1]
    assert values.shape == (6, 2, 2, 3)  # tasks, meta-seeds, support seeds, metrics
    np.testing.assert_array_equal(values[:, 0], values[:, 1])


def test_an_unfinished_method_does_not_stand_for_other_meta_seeds(table) -> None:
    runs = [run for run in make_runs() if (run["method"], run["seed"]) != (OTHER, 1)]
    assert np.isnan(table.collect(runs)[OTHER][1][:, 1]).all()


def test_with_few_tasks_the_interval_is_over_seeds(table) -> None:
    runs = [run for run in make_runs() if run["fold"] == "1"]
    (row, _) = table.method_rows(OTHER, table.collect(runs))
    assert row["nll gained"][1] < row["nll gained"][0] < row["nll gained"][2]


def test_an_unfinished_method_has_the_cells_it_has(table) -> None:
    runs = [run for run in make_runs() if (run["method"], run["fold"]) != (OTHER, "2")]
    values = table.collect(runs)[OTHER][1]
    assert np.isnan(values[3:]).all()
    assert not np.isnan(values[:3]).any()


def test_the_table_has_a_line_a_method_and_size(table) -> None:
    cells = table.collect(make_runs())
    text = table.markdown([row for m in cells for row in table.method_rows(m, cells)])
    assert len(text.splitlines()) == 2 + 6
    assert text.count(OTHER) == 2
