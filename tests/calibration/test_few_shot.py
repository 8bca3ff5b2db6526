"""Few-shot files: support sizes kept apart in report.json, in the tables and in the picture."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from calibration import accuracy, ece, macro_interval, nll, paired_difference, write_report
from calibration.summary import Measured
from calibration.support import SizeMeasured
from calibration.support_diagram import support_diagram

METRICS = {"accuracy": accuracy, "nll": nll, "ece": ece}
TASKS, SIZES, SEEDS = [f"task {i}" for i in range(6)], (0, 4, 16), (11, 12)
SETTINGS = {"resamples": 50, "level": 0.95, "seed": 0}

# By hand: a row's probability of "a", and the label.
BY_HAND = [
    ("one", 0, None, 0.6, "b"),
    ("two", 0, None, 0.7, "a"),
    ("one", 4, 1, 0.8, "a"),
    ("one", 4, 1, 0.6, "b"),
    ("one", 4, 2, 0.9, "a"),
    ("two", 4, 1, 0.7, "b"),
]


def report(files, out):
    write_report(files, out, resamples=50)
    return json.loads((out / "report.json").read_text()), (out / "report.html").read_text()


def row(task, size, seed, p, label):
    sample = {"support_size": size} | ({} if seed is None else {"support_seed": seed})
    answer = {"options": ["a", "b"], "probabilities": [p, 1 - p], "label": label}
    return {"task": task, "input": "q", **answer, **sample}


def few_shot(make_rows, tasks=TASKS, sizes=SIZES, seeds=SEEDS, n=12):
    """Rows of every task, size and seed; size 0 has no seed."""
    return [
        made
        for task in tasks
        for size in sizes
        for seed in (seeds if size else (None,))
        for made in make_rows(n, task=task, support_size=size, support_seed=seed)
    ]


def tables_of(rows, size):
    """Each metric of each task and seed by the package's functions on the rows of that cell."""
    found = {name: [] for name in METRICS}
    own = [r for r in rows if r["support_size"] == size]
    for task in dict.fromkeys(r["task"] for r in own):
        seeds = dict.fromkeys(r["support_seed"] for r in own if r["task"] == task)
        cells = [
            [r for r in own if (r["task"], r["support_seed"]) == (task, seed)] for seed in seeds
        ]
        for name, metric in METRICS.items():
            found[name].append(
                [
                    metric(
                        [r["probabilities"] for r in cell],
                        [r["options"].index(r["label"]) for r in cell],
                    )
                    for cell in cells
                ]
            )
    return found


def lines(html, table=0):
    """Name, note and values of each line of a table by support size, tags stripped."""
    section = html.split('<h2 id="support">')[1].split("<h2")[0]
    body = re.findall(r"<tbody>(.*?)</tbody>", section, re.DOTALL)[table]
    return [
        (*re.search(r"<th scope=\"row\">(.*?)<small>(.*?)</small>", line).groups(),
         re.findall(r"class=\"value\">(.*?)</span>", line))
        for line in body.split("</tr>")[:-1]
    ]  # fmt: skip


def test_sizes_by_hand(write_rows, tmp_path):
    path = write_rows([row(*values) for values in BY_HAND])
    data, html = report([path], tmp_path)
    entry = data["predictions"][0]
    none, four = entry["support"]
    counts = ("size", "tasks", "seeds", "n")
    assert [none[key] for key in counts] == [0, 2, 1, 2]
    assert [four[key] for key in counts] == [4, 2, 2, 4]
    assert set(four) == {*counts, *METRICS, "intervals"}
    # Size 4, task one: seed 1 has accuracy 1/2 and ECE (0.2 + 0.6) / 2, seed 2 has 1 and 0.1;
    # task two has 0 and 0.7.
    assert four["accuracy"] == pytest.approx((0.75 + 0) / 2)
    assert four["ece"] == pytest.approx(((0.4 + 0.1) / 2 + 0.7) / 2)
    one = (-np.log(0.8 * 0.4) / 2 - np.log(0.9)) / 2
    assert four["nll"] == pytest.approx((one - np.log(0.3)) / 2)
    assert none["ece"] == pytest.approx((0.6 + 0.3) / 2)
    assert four["intervals"] == none["intervals"] == dict.fromkeys(METRICS)
    # Over all rows, whatever their size.
    assert entry["n"] == 6
    assert entry["accuracy"] == pytest.approx(3 / 6)
    assert entry["nll"] == pytest.approx(-np.log(0.4 * 0.7 * 0.8 * 0.4 * 0.9 * 0.3) / 6)
    assert lines(html) == [
        ("0", "2 tasks, 1 seed", ["50.0 %", "0.636", "0.450"]),
        ("4", "2 tasks, 1 to 2 seeds", ["37.5 %", "0.771", "0.475"]),
    ]
    assert "With fewer than 5 tasks there is no interval" in html


def test_a_line_is_of_one_task_and_one_size(write_rows, tmp_path):
    path = write_rows([row(*values) for values in reversed(BY_HAND)])
    data, html = report([path], tmp_path)
    entry = data["predictions"][0]
    keys = ("task", "support_size", "seeds", "n", "accuracy", "ece")
    assert [[task[key] for key in keys] for task in entry["tasks"]] == [
        ["two", 0, 1, 1, 1, pytest.approx(0.3)],
        ["two", 4, 1, 1, 0, pytest.approx(0.7)],
        ["one", 0, 1, 1, 0, pytest.approx(0.6)],
        ["one", 4, 2, 3, 0.75, pytest.approx(0.25)],
    ]
    assert entry["tasks"][1]["intervals"]["accuracy"] == [0, 0]
    assert entry["tasks"][3]["intervals"]["accuracy"] is None
    # One seed has a right and a wrong answer, the other has no AUROC.
    assert entry["tasks"][3]["auroc"] == 1
    assert entry["tasks"][1]["undefined"]["auroc"].startswith("AUROC needs")
    assert "macro" not in entry
    assert "Macro average" not in html
    assert "support size 4, 2 seeds, 3 rows" in html
    assert "6 rows of 2 tasks with support size 0, 4, pooled" in html


def test_three_sizes_two_seeds_six_tasks(write_rows, make_rows, tmp_path):
    rows = few_shot(make_rows)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    data, html = report([write_rows(shuffled)], tmp_path)
    found = data["predictions"][0]["support"]
    counts = [[size[key] for key in ("size", "tasks", "seeds", "n")] for size in found]
    assert counts == [[0, 6, 1, 72], [4, 6, 2, 144], [16, 6, 2, 144]]
    for size in found:
        for name, values in tables_of(shuffled, size["size"]).items():
            expected = macro_interval(values, **SETTINGS)
            assert size[name] == pytest.approx(expected.value, abs=1e-12)
            assert size["intervals"][name] == pytest.approx(expected.interval, abs=1e-12)
    assert [line[:2] for line in lines(html)] == [
        ("0", "6 tasks, 1 seed"),
        ("4", "6 tasks, 2 seeds"),
        ("16", "6 tasks, 2 seeds"),
    ]
    assert "mix them" in html
    assert "there is no interval" not in html
    assert "Accuracy and ECE against support size" in html
    assert "comparisons" not in data


def test_files_are_compared_on_the_tasks_and_seeds_that_both_have(write_rows, make_rows, tmp_path):
    rows = few_shot(make_rows)
    worse = [r | {"probabilities": r["probabilities"][::-1]} for r in rows]
    worse = [r for r in worse if r["task"] != TASKS[0] and r["support_seed"] != SEEDS[1]]
    zero = [r for r in rows if r["support_size"] == 0]
    files = [
        write_rows(rows, "ours.jsonl"),
        write_rows(make_rows(), "other.jsonl"),  # no support sizes
        write_rows(worse, "worse.jsonl"),
        write_rows(zero, "zero.jsonl"),
    ]
    data, html = report(files, tmp_path)
    assert "support" not in data["predictions"][1]
    to_worse, to_zero = data["comparisons"]
    assert [to_worse[key] for key in ("first", "second")] == ["ours", "worse"]
    assert [to_zero[key] for key in ("first", "second")] == ["ours", "zero"]
    ours = [r for r in rows if r["task"] != TASKS[0] and r["support_seed"] != SEEDS[1]]
    assert [size["size"] for size in to_worse["support"]] == list(SIZES)
    for size in to_worse["support"]:
        assert set(size) == {"size", "tasks", "seeds", *METRICS, "intervals"}
        assert (size["tasks"], size["seeds"]) == (5, 1)
        a, b = tables_of(ours, size["size"]), tables_of(worse, size["size"])
        for name in METRICS:
            expected = paired_difference(a[name], b[name], **SETTINGS)
            assert size[name] == pytest.approx(expected.value, abs=1e-12)
            assert size["intervals"][name] == pytest.approx(expected.interval, abs=1e-12)
    assert [size["size"] for size in to_zero["support"]] == [0]
    assert to_zero["support"][0]["intervals"] == {name: [0, 0] for name in METRICS}
    # The tables have a column a file: ours, worse and zero; then worse and zero.
    dash = "\N{EN DASH}"
    assert [line[2][2::3] for line in lines(html)][1:] == [[dash] * 3] * 2
    assert lines(html, 1)[0][2][1::2] == ["+0.0 points", "+0.000", "+0.000"]
    assert [line[2][1::2] for line in lines(html, 1)][1:] == [[dash] * 3] * 2
    nlls = [size["nll"] for size in to_worse["support"]]
    assert [line[2][2] for line in lines(html, 1)] == [f"{value:+.3f}" for value in nlls]


def test_files_that_share_no_task_are_not_subtracted(write_rows, make_rows, tmp_path):
    files = [write_rows(few_shot(make_rows, [task]), f"{task}.jsonl") for task in ("left", "right")]
    data, html = report(files, tmp_path)
    assert "comparisons" not in data
    assert "minus the others" not in html
    assert [line[0] for line in lines(html)] == ["0", "4", "16"]


def test_one_size_is_a_line_and_no_curve(write_rows, make_rows, tmp_path):
    rows = few_shot(make_rows, sizes=(4,), seeds=(1,))
    data, html = report([write_rows(rows)], tmp_path)
    assert [size["size"] for size in data["predictions"][0]["support"]] == [4]
    assert [line[:2] for line in lines(html)] == [("4", "6 tasks, 1 seed")]
    assert "against support size" not in html
    assert "mix them" not in html


def test_one_seed_of_a_size_is_not_mixed_and_two_are(write_rows, make_rows, tmp_path):
    rows = few_shot(make_rows, sizes=(4,))
    html = report([write_rows(rows)], tmp_path)[1]
    assert "mix them" in html
    assert "against support size" not in html


def test_a_file_without_tasks_is_one_task(write_rows, make_rows, tmp_path):
    rows = [
        {key: value for key, value in r.items() if key != "task"}
        for r in few_shot(make_rows, ["any"])
    ]
    data, html = report([write_rows(rows)], tmp_path)
    assert "tasks" not in data["predictions"][0]
    assert [size["tasks"] for size in data["predictions"][0]["support"]] == [1, 1, 1]
    assert "60 rows with support size 0, 4, 16, pooled" in html


def test_the_same_questions_under_another_size_are_other_rows(write_rows, make_rows, tmp_path):
    rows = make_rows(20)
    files = [
        write_rows([r | {"support_size": size} for r in rows], f"{size}.jsonl") for size in (4, 16)
    ]
    assert "do not hold the same rows" in report(files, tmp_path)[1]


def test_an_example_says_its_support(write_rows, make_rows, tmp_path):
    html = report([write_rows(few_shot(make_rows, sizes=(16,), seeds=(77,)))], tmp_path)[1]
    assert "<small>support size 16, seed 77</small>" in html


def test_names_are_escaped(write_rows, make_rows, tmp_path):
    evil = "<script>alert(1)<"
    rows = few_shot(make_rows, [evil, "plain"])
    files = [write_rows(rows, f"<b> & {i}.jsonl") for i in range(2)]
    html = report(files, tmp_path)[1]
    assert "<script" not in html
    assert "<b>" not in html
    assert "<h3>&lt;b&gt; &amp; 0 minus the others</h3>" in html


def measured(size, value, interval):
    names = ("accuracy", "nll", "ece")
    figures = Measured(dict.fromkeys(names, value), dict.fromkeys(names, interval), {})
    return SizeMeasured(size, (1,) * 6, figures)


def texts(svg):
    return [x.text or "" for x in ElementTree.fromstring(svg).iter() if x.tag.endswith("text")]


def test_the_picture_has_two_panels_a_tick_a_size_and_a_name_a_curve():
    zero = measured(0, 0.5, (0.4, 0.6))
    curves = {
        "svi & <b>": [zero, measured(4, 0.6, None), measured(16, 0.7, None)],
        "no sizes": [],
        "_zero": [zero],
    }
    svg = support_diagram(curves)
    shown = texts(svg)
    assert svg.startswith('<svg role="img" aria-label="Accuracy and ECE')
    assert {"accuracy", "ECE", "svi & <b>", "_zero"} <= set(shown)
    assert "no sizes" not in shown
    for size in ("0", "4", "16"):
        assert shown.count(size) == 2
    assert svg == support_diagram(curves)


def test_a_huge_size_is_drawn():
    svg = support_diagram({"x": [measured(1, 0.5, None), measured(10**30, 0.6, None)]})
    assert svg.startswith("<svg")
