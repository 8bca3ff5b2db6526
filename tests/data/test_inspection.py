from pathlib import Path

import pytest

from bayes_lora.data import inspect
from bayes_lora.errors import InputDataError


def rows_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("\n\n")[0].split("\n")]


def test_a_file_has_rows_and_no_splits(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\none,a\ntwo,b\nthree,b\n")
    text = inspect(str(tmp_path / "x.csv"))
    header, row = rows_of(text)
    assert header == ["task", "kind", "options", "rows", "seeds", "majority", "leaks"]
    assert row == ["x", "fixed", "labels", "2", "3", "-", "0.667", "-"]
    assert "total: 1 task (1 fixed labels); rows: rows 3" in text
    assert text.endswith("\nno warnings")


def test_several_specs_share_a_table(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\none,a\ntwo,b\n")
    (tmp_path / "qa").mkdir()
    lines = "q \\n (A) x (B) y\tx\nr \\n (A) v (B) w (C) u (D) t (E) v\tv\n"
    for split in ("train", "test"):
        (tmp_path / "qa" / f"{split}.tsv").write_text(lines)
    text = inspect([str(tmp_path / "x.csv"), f"unifiedqa:{tmp_path}/qa"])
    header, file, questions = rows_of(text)
    assert header[3:6] == ["train", "test", "rows"]
    assert file[4:7] == ["-", "-", "2"]
    assert questions[3:] == ["2-4", "2", "2", "-", "-", "0.375", "chance", "(test)", "2"]
    assert text.partition("\n\nwarnings\n")[2].split("\n") == [
        "  qa",
        "    - 2 test rows also stand, with the same options, in train or dev",
        "    - train: 1 row with equal options, which are merged: qa/train.tsv, line 2",
        "    - test: 1 row with equal options, which are merged: qa/test.tsv, line 2",
    ]


def test_support_seeds_are_shown(tmp_path: Path) -> None:
    for seed in (21, 13):
        path = tmp_path / f"t_4_{seed}_train.tsv"
        path.write_text("one\ta\ntwo\tb\nthree\ta\nfour\ta\n" + "five\tb\n" * (seed == 21))
    text = inspect(f"crossfit:{tmp_path}")
    assert rows_of(text)[1][-5:] == ["4", "13,21", "0.750", "(train)", "-"]
    assert rows_of(inspect(f"crossfit:{tmp_path}@21"))[1][-5] == "5"
    assert "rows of one support seed, the lowest unless" in text


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputDataError, match="no such file"):
        inspect(str(tmp_path / "none.csv"))
