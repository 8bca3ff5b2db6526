import json
import re
from html.parser import HTMLParser

import pytest

import calibration.report
from calibration import (
    ParameterError,
    PredictionsFileError,
    ReportError,
    accuracy,
    bootstrap_interval,
    read_predictions,
    write_report,
)
from calibration.report import unique_names

METRICS = {
    "accuracy", "nll", "ece", "brier", "adaptive_ece", "classwise_ece", "mce", "auroc", "aurc",
}  # fmt: skip


def report(files, out, **options):
    write_report(files, out, resamples=20, **options)
    return json.loads((out / "report.json").read_text()), (out / "report.html").read_text()


class Checker(HTMLParser):
    """Collects tags, text and whatever would be loaded, and checks that tags nest."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.words, self.loads = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def test_json_says_everything(write_rows, make_rows, tmp_path):
    first = write_rows(make_rows(), "map.jsonl")
    second = write_rows(make_rows(num_draws=1), "svi.jsonl")
    data, _ = report([first, second], tmp_path / "new" / "out", seed=3)
    assert set(data) == {"title", "predictions", "settings", "versions"}
    assert data["settings"] == {"bins": 15, "resamples": 20, "level": 0.95, "seed": 3}
    assert {"python", "numpy", "netcal", "matplotlib"} <= set(data["versions"])
    assert [entry["name"] for entry in data["predictions"]] == ["map", "svi"]
    assert [entry["num_draws"] for entry in data["predictions"]] == [10, 1]
    for path, entry in zip([first, second], data["predictions"], strict=True):
        assert set(entry) == METRICS | {
            "file", "name", "n", "num_draws", "intervals", "undefined",
        }  # fmt: skip
        assert entry["file"] == str(path)
        assert entry["n"] == 60
        rows = read_predictions(path).predictions
        arrays = (rows.probabilities, rows.labels)
        assert entry["accuracy"] == accuracy(*arrays)
        expected = bootstrap_interval(accuracy, *arrays, resamples=20, seed=3)
        assert entry["intervals"]["accuracy"] == list(expected)
        assert set(entry["intervals"]) == METRICS


def test_undefined_metrics_are_null_and_explained(write_rows, tmp_path):
    rows = [
        {"options": ["a", "b"], "probabilities": [0.9, 0.1], "label": "a"},
        {"options": ["a", "b", "c"], "probabilities": [0.8, 0.1, 0.1], "label": "a"},
    ]
    data, html = report([write_rows(rows)], tmp_path)
    entry = data["predictions"][0]
    assert entry["num_draws"] is None
    assert entry["accuracy"] == 1
    for name in ("auroc", "classwise_ece"):
        assert entry[name] is None
        assert entry["intervals"][name] is None
    assert set(entry["undefined"]) == {"auroc", "classwise_ece"}
    assert html.count("\N{EN DASH}</abbr>") == 3  # the two, and the number of draws
    assert "AUROC needs right and wrong answers" in html
    assert "Every answer is right." in html


def test_text_from_the_data_is_escaped(write_rows, make_rows, tmp_path):
    evil = "<script>alert(1)</script>"
    rows = make_rows(5)
    for row in rows:
        row["input"] = f"question {evil}"
        row["options"] = [evil, "b & c", "d"]
        row["label"] = evil
    path = write_rows(rows, "<img onerror=x>.jsonl")
    page = parse(report([path], tmp_path, title=evil)[1])
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert f"question {evil}" in page.words
    assert "<img onerror=x>" in page.words


def test_page_loads_nothing(write_rows, make_rows, tmp_path):
    html = report([write_rows(make_rows())], tmp_path)[1]
    page = parse(html)
    assert all(link.startswith("#") for link in page.loads)
    assert "link" not in page.tags
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)\)", html))


def test_best_of_a_column_is_marked(write_rows, tmp_path):
    def rows(p):
        return [
            {"input": f"{i}", "options": ["a", "b"], "probabilities": [p, 1 - p], "label": label}
            for i, label in enumerate("aaab")
        ]

    honest, boastful = write_rows(rows(0.75), "honest.jsonl"), write_rows(rows(0.99), "b.jsonl")
    html = report([boastful, honest], tmp_path)[1]
    b_row, honest_row = re.findall(r"<tr>\s*<th scope=\"row\">.*?</tr>", html, re.DOTALL)[:2]
    # Accuracy is equal; NLL, ECE and Brier are better of the honest one.
    assert b_row.count(">best<") == 1
    assert honest_row.count(">best<") == 4
    assert "do not hold the same rows" not in html


def test_the_higher_accuracy_is_the_best(write_rows, tmp_path):
    def rows(p):
        return [{"options": ["a", "b"], "probabilities": [p, 1 - p], "label": "a"}]

    right, wrong = write_rows(rows(0.75), "right.jsonl"), write_rows(rows(0.25), "wrong.jsonl")
    html = report([wrong, right], tmp_path)[1]
    wrong_row, right_row = re.findall(r"<tr>\s*<th scope=\"row\">.*?</tr>", html, re.DOTALL)[:2]
    assert '100.0 %</span> <span class="tag">best' in right_row
    assert ">best<" not in wrong_row


def test_says_when_files_hold_different_rows(write_rows, make_rows, tmp_path):
    files = [write_rows(make_rows(), "a.jsonl"), write_rows(make_rows(), "b.jsonl")]
    assert "do not hold the same rows" in report(files, tmp_path)[1]


def test_examples_are_the_most_uncertain_and_the_most_confidently_wrong(write_rows, tmp_path):
    rows = [
        {
            "input": f"<{i}>",
            "options": ["a", "b"],
            "probabilities": [0.5 + i / 100, 0.5 - i / 100],
            "label": "ab"[i % 2],
            "mutual_information": i / 1000,
        }
        for i in range(40)
    ]
    html = report([write_rows(rows)], tmp_path)[1]
    wrong, uncertain = html.split("<summary>")[1:]
    shown = r"&lt;(\d+)&gt;"
    assert re.findall(shown, wrong) == [f"{i}" for i in range(39, 19, -2)]
    assert re.findall(shown, uncertain) == [f"{i}" for i in range(10)]
    assert "mutual information 0.039" in wrong


def test_the_truth_is_shown_however_improbable(write_rows, tmp_path):
    options = [f"option-{k}" for k in range(30)]
    probabilities = [0.42] + [0.02] * 29
    row = {"options": options, "probabilities": probabilities, "label": "option-29"}
    html = report([write_rows([row])], tmp_path)[1]
    assert "option-29" in html
    assert "and 24 less probable" in html


@pytest.mark.parametrize("broken", ["render", "json"])
def test_a_failure_leaves_the_old_report(write_rows, make_rows, tmp_path, monkeypatch, broken):
    out = tmp_path / "out"
    path = write_rows(make_rows())
    before = report([path], out)

    def fail(*args, **kwargs):
        raise RuntimeError("halfway")

    if broken == "render":
        monkeypatch.setattr(calibration.report, "render", fail)
    else:
        monkeypatch.setattr(calibration.report.json, "dumps", fail)
    with pytest.raises(RuntimeError, match="halfway"):
        write_report([path], out, title="new", resamples=20)
    after = (json.loads((out / "report.json").read_text()), (out / "report.html").read_text())
    assert after == before
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.json"]


def test_an_interrupted_write_leaves_the_old_report(write_rows, make_rows, tmp_path, monkeypatch):
    out = tmp_path / "out"
    path = write_rows(make_rows())
    before = report([path], out)

    def disk_full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", disk_full)
    with pytest.raises(ReportError, match=r"No space left.*choose another folder"):
        write_report([path], out, title="new", resamples=20)
    assert json.loads((out / "report.json").read_text()) == before[0]
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.json"]


def test_out_that_is_a_file(write_rows, make_rows, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ReportError, match="cannot be written"):
        report([write_rows(make_rows())], tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_bad_file_writes_nothing(write_rows, make_rows, tmp_path):
    files = [write_rows(make_rows(), "a.jsonl"), write_rows(["{"], "b.jsonl")]
    with pytest.raises(PredictionsFileError, match=r"b\.jsonl, line 1"):
        report(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_a_surrogate_pair_does_not_stop_the_page(write_rows, tmp_path):
    row = '{"input": "\\ud800", "options": ["a", "b"], "probabilities": [1, 0], "label": "b"}'
    assert "accuracy" in report([write_rows([row])], tmp_path)[0]["predictions"][0]


def test_names_are_as_short_as_they_can_be(tmp_path):
    files = [
        tmp_path / "map" / "predictions.jsonl",
        tmp_path / "svi" / "predictions.jsonl",
        tmp_path / "other.jsonl",
    ]
    assert unique_names(files) == ["map/predictions", "svi/predictions", "other"]
    deep = [tmp_path / "a" / "x" / "p.jsonl", tmp_path / "b" / "x" / "p.jsonl"]
    assert unique_names(deep) == ["a/x/p", "b/x/p"]


def test_no_file_or_the_same_twice(write_rows, make_rows, tmp_path):
    with pytest.raises(ParameterError, match="at least one"):
        report([], tmp_path)
    path = write_rows(make_rows())
    with pytest.raises(ParameterError, match=re.escape(str(path))):
        report([path, path], tmp_path)
