"""The demo, much shortened, on a tiny random backbone: what it writes, and that parts fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bayes_lora import cli, demo
from bayes_lora.backbone import Backbone, load_backbone
from bayes_lora.data import read_tabular
from bayes_lora.errors import RunFolderError

SMALL = {
    "TRAIN_ROWS": 16,
    "TEST_ROWS": 12,
    "EPOCHS": 1,
    "INBOX_ROWS": 20,
    "QUESTIONS": 6,
    "ALONE": 1,
    "META": replace(demo.META, max_steps=1, steps=1),
    "USERS": 6,
    "REVIEWS": 24,
    "UNSEEN": 2,
    "ASKED": 16,
    "USER_EPOCHS": 1,
    "USER_DRAWS": 2,
}


@pytest.fixture
def small(tiny_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Backbone:
        return load_backbone(str(tiny_folders / "tiny-encoder"))

    monkeypatch.setattr(demo, "load_backbone", load)
    for name, value in SMALL.items():
        monkeypatch.setattr(demo, name, value)


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("small")
def test_all_parts_write_their_reports_and_say_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert cli.main(["demo", "--out", str(out), "--seed", "1"]) == 0
    pages = [
        out / name
        for name in (
            "report/report.html",
            "few-shot-report/report.html",
            "users-report/report.html",
            "users/levels.html",
        )
    ]
    assert capsys.readouterr().out.splitlines() == [f"Report written to {page}" for page in pages]
    assert all("</html>" in page.read_text() for page in pages)
    with pytest.raises(RunFolderError):
        demo.run_demo(out)


@pytest.mark.usefixtures("small")
def test_users_never_seen_lose_nothing_and_others_are_told_apart(tmp_path: Path) -> None:
    demo.compare_users(tmp_path, seed=1)
    train, test = (read_tabular(tmp_path / "reviews" / f"{part}.csv") for part in ("train", "test"))
    assert (len(train), len(test)) == (24, 16)
    known, unknown = (_rows(tmp_path / f"users-{name}.jsonl") for name in ("known", "unknown"))
    seen = {example.attributes["user"] for example in train.examples}
    is_new = [row["attributes"]["user"] not in seen for row in known]
    assert any(is_new)
    for own, population, new in zip(known, unknown, is_new, strict=True):
        assert own["level_counts"] == population["level_counts"]
        assert own["options"] == population["options"] == ["poor", "fair", "good"]
        assert population["attributes"] == {}
        alike = own["probabilities"] == pytest.approx(population["probabilities"], abs=1e-6)
        assert alike == new
        assert (own["level_counts"]["user"] == 0) == new
    page = (tmp_path / "users-report" / "report.html").read_text()
    assert "users-known" in page
    assert "unseen" in page
