from pathlib import Path

import pytest

from bayes_lora.data import read
from bayes_lora.errors import ConfigError, InputDataError


@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "notes:2.csv"])
def test_a_file_is_read_by_its_extension(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("text,label\none,a\ntwo,b\n")
    assert read(str(path)).options == ("a", "b")
    assert read(str(path), options=["b", "a"]).options == ("b", "a")


def test_jsonl_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "one", "label": 1}\n{"text": "two", "label": 0}\n')
    assert read(str(path)).labels == [1, 0]


@pytest.mark.parametrize(
    "spec", ["", "x", ".csv", "x.tsv", "crossfit:anli", "unifiedqa:", "hub:a/b", "hub:a.csv"]
)
def test_what_no_reader_reads_names_the_forms_supported(spec: str) -> None:
    with pytest.raises(ConfigError, match=r"FILE\.csv, FILE\.jsonl") as caught:
        read(spec)
    assert repr(spec) in str(caught.value)


def test_a_windows_drive_is_no_scheme() -> None:
    with pytest.raises(InputDataError, match="no such file"):
        read(r"C:\nowhere\x.csv")
