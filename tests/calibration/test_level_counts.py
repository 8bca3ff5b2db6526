"""Level counts: buckets of rows by how much training saw of their level, in report and picture."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from calibration import PredictionsFileError, ece, read_predictions, write_report
from calibration.level_diagram import level_diagram
from calibration.levels import BUCKETS, LevelMeasured, bucket
from calibration.metrics import METRICS
from calibration.summary import Measured

COUNTS = (0, 1, 2, 5, 6, 20, 21)
ENDS = {"unseen": (0, 0), "1": (1, 1), "2-5": (2, 5), "6-20": (6, 20), "more": (21, 10**9)}
GOOD = {"options": ["yes", "no"], "probabilities": [0.75, 0.25], "label": "no"}
USER = GOOD | {"level_counts": {"user_id": 3}}
DASH = "\N{EN DASH}"


def report(files, out):
    write_report(files, out, resamples=50)
    return json.loads((out / "report.json").read_text()), (out / "report.html").read_text()


def with_counts(rows, counts=COUNTS, attribute="user_id"):
    """The rows, their level counts going round through these."""
    return [
        row | {"level_counts": row.get("level_counts", {}) | {attribute: counts[i % len(counts)]}}
        for i, row in enumerate(rows)
    ]


def without(rows, key):
    return [{name: value for name, value in row.items() if name != key} for row in rows]


def chosen(rows, count, attribute="user_id"):
    """By hand: the rows of a bucket."""
    low, high = ENDS[count]
    return [row for row in rows if low <= row["level_counts"][attribute] <= high]


def section(html):
    return html.split('<h2 id="levels">')[1].split("<h2")[0]


def tables(html):
    """Name, note and values of each line of each attribute's table, tags stripped."""
    return [
        [
            (*re.search(r"<th scope=\"row\">(.*?)<small>(.*?)</small>", line).groups(),
             re.findall(r"class=\"value\">(.*?)</span>", line))
            for line in body.split("</tr>")[:-1]
        ]
        for body in re.findall(r"<tbody>(.*?)</tbody>", section(html), re.DOTALL)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "name"),
    [
        (0, "unseen"), (1, "1"), (2, "2-5"), (5, "2-5"), (6, "6-20"), (20, "6-20"), (21, "more"),
        (10**30, "more"),
    ],
)  # fmt: skip
def test_the_edges_of_the_buckets(count, name):
    assert bucket(count) == name


def test_metrics_are_those_of_the_rows_in_a_bucket(write_rows, make_rows, tmp_path):
    rows = with_counts(make_rows(140))
    data, html = report([write_rows(rows)], tmp_path)
    levels = data["predictions"][0]["levels"]
    assert list(levels) == ["user_id"]
    assert [level["count"] for level in levels["user_id"]] == list(BUCKETS)
    assert [level["n"] for level in levels["user_id"]] == [20, 20, 40, 40, 20]
    for level in levels["user_id"]:
        own = chosen(rows, level["count"])
        probabilities = np.array([row["probabilities"] for row in own])
        labels = [row["options"].index(row["label"]) for row in own]
        expected = {
            "accuracy": accuracy_score(labels, probabilities.argmax(axis=1)),
            "nll": log_loss(labels, probabilities, labels=[0, 1, 2]),
            "ece": ece(probabilities, labels),
        }
        assert {name: level[name] for name in expected} == pytest.approx(expected, abs=1e-12)
        low, high = level["intervals"]["nll"]
        assert low < level["nll"] < high
    shown = [[f"{100 * x['accuracy']:.1f} %", f"{x['nll']:.3f}", f"{x['ece']:.3f}"]
             for x in levels["user_id"]]  # fmt: skip
    notes = [f"{n} rows" for n in (20, 20, 40, 40, 20)]
    assert tables(html) == [list(zip(BUCKETS, notes, shown, strict=True))]


def test_a_bucket_is_measured_as_if_it_had_a_file_of_its_own(write_rows, make_rows, tmp_path):
    rows = with_counts(make_rows(70), (4, 0))
    apart = [write_rows(chosen(rows, name), f"{name}.jsonl") for name in ("unseen", "2-5")]
    together, _ = report([write_rows(rows)], tmp_path / "together")
    alone, _ = report(apart, tmp_path / "alone")
    levels = together["predictions"][0]["levels"]["user_id"]
    for level, own in zip(levels, alone["predictions"], strict=True):
        assert set(level) == METRICS.keys() | {"count", "n", "intervals", "undefined"}
        assert {"count": level["count"]} | {k: own[k] for k in level if k != "count"} == level


def test_empty_buckets_are_left_out(write_rows, make_rows, tmp_path):
    rows = with_counts(make_rows(30), (21, 0, 500))
    data, html = report([write_rows(rows)], tmp_path)
    levels = data["predictions"][0]["levels"]["user_id"]
    assert [(level["count"], level["n"]) for level in levels] == [("unseen", 10), ("more", 20)]
    assert [line[:2] for line in tables(html)[0]] == [("unseen", "10 rows"), ("more", "20 rows")]


def test_attributes_have_a_table_and_a_picture_each(write_rows, make_rows, tmp_path):
    rows = with_counts(with_counts(make_rows(40)), (0, 1), "product <b>")
    rows[1]["level_counts"] = dict(reversed(rows[1]["level_counts"].items()))
    data, html = report([write_rows(rows)], tmp_path)
    levels = data["predictions"][0]["levels"]
    assert list(levels) == ["user_id", "product <b>"]
    assert [level["n"] for level in levels["product <b>"]] == [20, 20]
    names = re.findall(r"<h3>(.*?)</h3>", section(html))
    assert names == ["user_id", "product &lt;b&gt;"]
    assert [[line[0] for line in table] for table in tables(html)] == [
        list(BUCKETS),
        ["unseen", "1"],
    ]
    assert section(html).count("<svg") == 2
    assert section(html).count('aria-label="NLL and accuracy by training rows') == 2


def test_files_are_set_side_by_side(write_rows, make_rows, tmp_path):
    rows = with_counts(make_rows(70))
    surer = [row | {"probabilities": [0.8, 0.1, 0.1]} for row in rows]
    files = [
        write_rows(rows, "svi.jsonl"),
        write_rows(without(rows, "level_counts"), "without.jsonl"),
        write_rows(surer, "map.jsonl"),
    ]
    data, html = report(files, tmp_path)
    svi, none, point = data["predictions"]
    assert "levels" not in none
    pairs = zip(svi["levels"]["user_id"], point["levels"]["user_id"], strict=True)
    for line, (first, second) in zip(tables(html)[0], pairs, strict=True):
        assert line[:2] == (first["count"], f"{first['n']} rows")
        assert line[2][2:4] == [f"{first['nll']:.3f}", f"{second['nll']:.3f}"]
    files_shown = re.findall(r'<th scope="col" class="[^"]*">(.*?)</th>', section(html))
    assert files_shown == ["svi", "map"] * 3
    assert "do not have the same counts" not in html


def test_files_with_other_counts_or_attributes(write_rows, make_rows, tmp_path):
    rows = make_rows(12)
    files = [
        write_rows(with_counts(rows, (0, 3)), "few.jsonl"),
        write_rows(with_counts(rows, (0, 30, 30)), "many.jsonl"),
        write_rows(with_counts(rows, (1,), "item"), "item.jsonl"),
    ]
    html = report(files, tmp_path)[1]
    user, item = tables(html)
    assert [line[:2] for line in user] == [
        ("unseen", "4 to 6 rows"),
        ("2-5", "6 rows"),
        ("more", "8 rows"),
    ]
    # Of each metric few and then many: only few has counts of 3, only many has counts of 30.
    assert [line[2].count(DASH) for line in user] == [0, 3, 3]
    assert user[1][2][1::2] == user[2][2][::2] == [DASH] * 3
    assert [line[:2] for line in item] == [("1", "12 rows")]
    assert section(html).count("do not have the same counts") == 1
    assert section(html).count("<svg") == 1  # one bucket makes no curve


def test_mixed_support_sizes_are_named(write_rows, make_rows, tmp_path):
    rows = with_counts(make_rows(10, support_size=0) + make_rows(10, support_size=4))
    assert "The lines mix support sizes" in section(report([write_rows(rows)], tmp_path)[1])


@pytest.mark.parametrize("counts", [None, {}])
def test_a_file_without_counts_is_reported_as_before(write_rows, make_rows, tmp_path, counts):
    rows = make_rows(20)
    plain = report([write_rows(rows)], tmp_path / "plain")
    assert "levels" not in plain[0]["predictions"][0]
    assert "training rows" not in plain[1]
    empty = write_rows([row | {"level_counts": counts} for row in rows])
    assert report([empty], tmp_path / "empty") == plain


def test_counts_add_a_part_and_change_no_other(write_rows, make_rows, tmp_path):
    rows = make_rows(40)
    data, html = report([write_rows(rows)], tmp_path / "plain")
    more, longer = report([write_rows(with_counts(rows))], tmp_path / "counts")
    del more["predictions"][0]["levels"]
    assert more == data
    part = '<h2 id="levels">' + section(longer)
    assert longer.replace(part, "") == html


def counted(counts):
    return GOOD | {"level_counts": counts}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (counted({"user_id": True}), "\"level_counts['user_id']\" must be a whole number"),
        (counted({"user_id": -1}), "must be a whole number from 0 up, not -1"),
        (counted({"user_id": 2.0}), "must be a whole number from 0 up, not 2.0"),
        (counted({"user_id": "2"}), "must be a whole number from 0 up, not '2'"),
        (counted({"user_id": None}), "must be a whole number from 0 up, not None"),
        (counted({"user_id": [2]}), "must be a whole number from 0 up, not [2]"),
        (counted([3]), '"level_counts" must be an object of counts by attribute, not [3]'),
        (counted(3), '"level_counts" must be an object of counts by attribute, not 3'),
        (GOOD, 'has no "level_counts", but line 1 has one; give one in every row or in none'),
        (counted(None), 'has no "level_counts", but line 1 has one'),
        (counted({}), "has no \"level_counts['user_id']\", but line 1 has one; give one in every"),
        (counted({"item": 3}), "has no \"level_counts['user_id']\", but line 1 has one"),
        (counted({"user_id": 3, "x\ny": 1}), "has a \"level_counts['x\\ny']\", but line 1 has no"),
    ],
)
def test_names_file_and_line_of_every_defect(write_rows, row, words):
    path = write_rows([USER, "", row, USER])
    with pytest.raises(PredictionsFileError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_counts_among_rows_without(write_rows):
    path = write_rows([GOOD, USER])
    with pytest.raises(PredictionsFileError, match=r'line 2: has a "level_counts", but line 1 has'):
        read_predictions(path)


def measured(count, value, interval):
    names = ("accuracy", "nll", "ece")
    figures = Measured(dict.fromkeys(names, value), dict.fromkeys(names, interval), {})
    return LevelMeasured(count, 9, figures)


def test_the_picture_has_two_panels_a_tick_a_bucket_and_a_name_a_curve():
    curves = {
        "svi & <b>": [measured("unseen", 0.5, (0.4, 0.6)), measured("more", 0.7, (0.6, 0.8))],
        "no counts": [],
        "_one": [measured("2-5", 0.5, (0.4, 0.6))],
    }
    svg = level_diagram(curves)
    texts = [x.text or "" for x in ElementTree.fromstring(svg).iter() if x.tag.endswith("text")]
    assert {"accuracy", "NLL", "svi & <b>", "_one"} <= set(texts)
    assert "no counts" not in texts
    assert [texts.count(name) for name in BUCKETS] == [2, 0, 2, 0, 2]
