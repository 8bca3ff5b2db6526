"""Files of several tasks: each task by itself, macro averages, and their tables on the page."""

import json
import re

import numpy as np
import pytest

from calibration import write_report
from calibration.metrics import METRICS
from calibration.summary import Measured
from calibration.tasks import TaskMeasured, macro_average

# Task one: right at 0.8, wrong at 0.6. Task two, with other options: right at 0.5.
BY_HAND = [
    {"options": ["a", "b"], "probabilities": [0.8, 0.2], "label": "a", "task": "one"},
    {"options": ["x", "y", "z"], "probabilities": [0.5, 0.3, 0.2], "label": "x", "task": "two"},
    {"options": ["a", "b"], "probabilities": [0.6, 0.4], "label": "b", "task": "one"},
]


def report(files, out, **options):
    write_report(files, out, resamples=20, **options)
    return json.loads((out / "report.json").read_text()), (out / "report.html").read_text()


def several(make_rows, *tasks):
    """Rows of tasks of 20, 30, ... rows and 2, 3, ... options."""
    return [row for i, task in enumerate(tasks) for row in make_rows(20 + 10 * i, 2 + i, task=task)]


def figures(metrics):
    return {name: pytest.approx(value, abs=1e-12) for name, value in metrics.items()}


def test_tasks_and_their_macro_average_by_hand(write_rows, tmp_path):
    entry = report([write_rows(BY_HAND)], tmp_path)[0]["predictions"][0]
    one = {
        "accuracy": 1 / 2, "nll": -np.log(0.8 * 0.4) / 2, "ece": 0.4, "brier": 0.4,
        "adaptive_ece": 0.4, "classwise_ece": 0.4, "mce": 0.6, "auroc": 1.0, "aurc": 0.25,
    }  # fmt: skip
    two = {
        "accuracy": 1.0, "nll": np.log(2), "ece": 0.5, "brier": 0.38,
        "adaptive_ece": 0.5, "classwise_ece": 1 / 3, "mce": 0.5, "auroc": None, "aurc": 0.0,
    }  # fmt: skip
    mean = {
        name: one[name] if two[name] is None else (one[name] + two[name]) / 2 for name in METRICS
    }
    assert [(task["task"], task["n"]) for task in entry["tasks"]] == [("one", 2), ("two", 1)]
    for found, expected in zip(entry["tasks"], (one, two), strict=True):
        assert {name: found[name] for name in METRICS} == figures(expected)
    assert {name: entry["macro"][name] for name in METRICS} == figures(mean)
    assert entry["macro_tasks"] == dict.fromkeys(METRICS, 2) | {"auroc": 1}
    # Pooled, each row counts the same.
    assert entry["n"] == 3
    assert entry["accuracy"] == pytest.approx(2 / 3)
    assert entry["nll"] == pytest.approx(-np.log(0.8 * 0.4 * 0.5) / 3)
    assert entry["ece"] == pytest.approx((0.2 + 0.6 + 0.5) / 3)


def test_what_is_undefined_is_null_with_a_reason(write_rows, tmp_path):
    rows = [row | {"probabilities": [1.0, 0.0, 0.0][: len(row["options"])]} for row in BY_HAND]
    rows[2]["options"] = ["b", "a"]
    for row in rows:
        row["label"] = row["options"][0]
    entry = report([write_rows(rows)], tmp_path)[0]["predictions"][0]
    one, two = entry["tasks"]
    assert set(one["undefined"]) == {"auroc", "classwise_ece"}
    assert two["undefined"] == {"auroc": "AUROC needs right and wrong answers; all here are right"}
    assert entry["macro"]["auroc"] is None
    assert entry["macro"]["undefined"] == {"auroc": "undefined in every task"}
    assert entry["macro_tasks"]["auroc"] == 0
    assert entry["macro_tasks"]["classwise_ece"] == 1
    assert set(entry["undefined"]) == {"auroc", "classwise_ece"}


def test_a_task_is_measured_as_if_it_had_a_file_of_its_own(write_rows, make_rows, tmp_path):
    rows = several(make_rows, "first", "second", "third")
    mixed = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    order = list(dict.fromkeys(row["task"] for row in mixed))
    alone = [write_rows([r for r in mixed if r["task"] == t], f"{t}.jsonl") for t in order]
    together, _ = report([write_rows(mixed)], tmp_path / "together")
    apart, _ = report(alone, tmp_path / "apart")
    entry = together["predictions"][0]
    assert [task["task"] for task in entry["tasks"]] == order
    for task, own in zip(entry["tasks"], apart["predictions"], strict=True):
        assert set(task) == METRICS.keys() | {"task", "n", "intervals", "undefined"}
        assert {"task": task["task"]} | {key: own[key] for key in task if key != "task"} == task
    assert set(entry["macro"]) == METRICS.keys() | {"intervals", "undefined"}


@pytest.mark.parametrize("extra", [{}, {"task": "the only one"}])
def test_one_task_or_none_changes_nothing(write_rows, make_rows, tmp_path, extra):
    rows = make_rows()
    plain = report([write_rows(rows)], tmp_path / "plain")
    assert not {"tasks", "macro", "macro_tasks"} & set(plain[0]["predictions"][0])
    assert "<h2>Tasks</h2>" not in plain[1]
    assert report([write_rows([row | extra for row in rows])], tmp_path / "extra") == plain


def measured(*values):
    nothing = dict.fromkeys(METRICS)
    return [TaskMeasured("t", 9, Measured(nothing | {"nll": x}, nothing, {})) for x in values]


def test_the_macro_interval_has_the_width_of_a_mean_over_tasks(rng):
    values = rng.normal(2, 0.5, size=60)
    macro = macro_average(measured(*values), resamples=20_000, level=0.95, seed=1)
    half = 1.96 * values.std() / np.sqrt(60)
    expected = (values.mean() - half, values.mean() + half)
    assert macro.measured.intervals["nll"] == pytest.approx(expected, abs=0.01)


def test_fewer_than_five_tasks_have_no_macro_interval():
    settings = {"resamples": 10, "level": 0.95, "seed": 0}
    macro = macro_average(measured(1.0, 2.0, 3.0, 6.0, None), **settings)
    assert macro.measured.values["nll"] == 3
    assert macro.measured.intervals["nll"] is None
    assert macro.counts["nll"] == 4
    assert macro_average(measured(1, 1, 1, 1, 1), **settings).measured.intervals["nll"] == (1, 1)


def rows_of(table):
    """Name and cells of each line of an HTML table, tags stripped."""
    lines = re.findall(r"<tr[^>]*>\s*<th scope=\"row\">(.*?)<.*?</th>(.*?)</tr>", table, re.DOTALL)
    return [(name, re.findall(r"class=\"value\">(.*?)</span>", cells)) for name, cells in lines]


def tables(html):
    """The lines of every table between the heading about tasks and the next one."""
    section = html.split("<h2>Tasks</h2>")[1].split("<h2>")[0]
    return [rows_of(table) for table in re.findall(r"<table.*?</table>", section, re.DOTALL)]


def test_the_page_names_pooled_macro_and_each_task(write_rows, tmp_path):
    html = report([write_rows(BY_HAND)], tmp_path)[1]
    assert tables(html) == [
        [
            ("All rows pooled", ["66.7 %", "0.611", "0.433", "0.393"]),
            ("Macro average", ["75.0 %", "0.631", "0.450", "0.390"]),
            ("one", ["50.0 %", "0.570", "0.400", "0.400"]),
            ("two", ["100.0 %", "0.693", "0.500", "0.380"]),
        ]
    ]
    assert "3 rows of 2 tasks, pooled" in html
    assert "(1 of 2 tasks)" in html  # the macro average of AUROC
    assert "<small>task two</small>" in html  # beside an example


def test_files_are_compared_on_the_tasks_that_they_share(write_rows, make_rows, tmp_path):
    surer = [row | {"probabilities": [0.9, 0.1]} for row in BY_HAND if row["task"] == "one"]
    same = [row for row in BY_HAND if row["task"] == "two"]
    more = make_rows(4, task="three", num_draws=None)
    files = [
        write_rows(BY_HAND, "map.jsonl"),
        write_rows(make_rows(), "without.jsonl"),
        write_rows(more + same + surer, "svi.jsonl"),
    ]
    html = report(files, tmp_path)[1]
    comparison, of_map, of_svi = tables(html)
    # Per metric, map and then svi. By hand: NLL (-ln 0.9 - ln 0.1) / 2, ECE |0.5 - 0.9|.
    assert comparison == [
        ("Macro average", ["75.0 %", "75.0 %", "0.631", "0.949", "0.450", "0.450"]),
        ("one", ["50.0 %", "50.0 %", "0.570", "1.204", "0.400", "0.400"]),
        ("two", ["100.0 %", "100.0 %", "0.693", "0.693", "0.500", "0.500"]),
    ]
    assert "left out: 1." in html
    assert [name for name, _ in of_map[2:]] == ["one", "two"]
    assert [name for name, _ in of_svi[2:]] == ["three", "two", "one"]
    table = html.split('<table class="metrics tasks compare">')[1].split("</table>")[0]
    # Only NLL differs, in task one and so on average.
    assert re.findall(r'class="best[^"]*"><span class="value">(.*?)<', table) == ["0.631", "0.570"]


def test_files_that_share_fewer_than_two_tasks_are_not_compared(write_rows, make_rows, tmp_path):
    files = [
        write_rows(several(make_rows, "a", "b"), "x.jsonl"),
        write_rows(several(make_rows, "b", "c"), "y.jsonl"),
    ]
    html = report(files, tmp_path)[1]
    assert 'class="metrics tasks compare"' not in html
    assert len(tables(html)) == 2


def test_names_of_tasks_are_escaped(write_rows, make_rows, tmp_path):
    evil = "<script>alert(1)</script> & co"
    rows = several(make_rows, evil, "plain")
    files = [write_rows(rows, "x.jsonl"), write_rows(rows, "y.jsonl")]
    data, html = report(files, tmp_path)
    assert data["predictions"][0]["tasks"][0]["task"] == evil
    assert "<script" not in html
    assert tables(html)[0][1][0] == "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co"
