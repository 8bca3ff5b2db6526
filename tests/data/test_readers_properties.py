"""Any bytes at all are read or refused on purpose; well-formed files read back as written."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayes_lora.data import Task, read
from bayes_lora.errors import ConfigError, InputDataError

# A busy machine must not fail a test that is only slow.
patient = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
suffixes = st.sampled_from([".csv", ".jsonl"])
known_options = st.none() | st.just(["a", "b"])
# Pieces that get a random file past the first checks more often than random bytes do.
pieces = st.sampled_from(
    [
        *("text", "label", "input", "output", "options", "a", "b", "null", "1e999"),
        *(",", '"', "\n", "\r", "\r\n", " ", "{", "}", "[", "]", ":", "\\"),
        *("\0", "\ufeff", "\u2028", "\x85"),
        *("text,label\n", '{"text": ', '"options": ["a", "b"], ', '["a", "b"]'),
        '{"text": "t", "label": "a"}',
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | pieces
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(pieces, inner))
json_rows = st.dictionaries(
    st.sampled_from(["text", "label", "input", "output", "options", "other"]), json_values
)
clean_text = (
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1)
    .map(str.strip)
    .filter(bool)
)
labels = st.sampled_from(["bad", "good", "so-so", "1", "naïve"])
well_formed = st.lists(st.tuples(clean_text, labels, clean_text), min_size=2).filter(
    lambda rows: len({label for _, label, _ in rows}) > 1
)


def read_content(content: bytes, suffix: str, options: list[str] | None = None) -> Task:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        path.write_bytes(content)
        (task,) = read(str(path), options=options)
        return task


def check_refused_on_purpose(content: bytes, suffix: str, options: list[str] | None) -> None:
    """Any error but those two fails the test."""
    message = "read"
    try:
        read_content(content, suffix, options)
    except (InputDataError, ConfigError) as error:
        message = str(error)
    assert len(message.splitlines()) == 1


@patient
@given(st.binary(), suffixes, known_options)
def test_arbitrary_bytes(content: bytes, suffix: str, options: list[str] | None) -> None:
    check_refused_on_purpose(content, suffix, options)


@patient
@given(st.lists(pieces, max_size=25).map("".join), suffixes, known_options)
def test_malformed_files(content: str, suffix: str, options: list[str] | None) -> None:
    check_refused_on_purpose(content.encode(), suffix, options)


@patient
@given(st.lists(json_rows, max_size=4), known_options)
def test_arbitrary_json_objects(rows: list[dict[str, object]], options: list[str] | None) -> None:
    content = "\n".join(json.dumps(row) for row in rows)
    check_refused_on_purpose(content.encode(), ".jsonl", options)


@patient
@given(st.text())
def test_arbitrary_specs(spec: str) -> None:
    with pytest.raises((InputDataError, ConfigError)) as caught:
        read(spec)
    assert len(str(caught.value).splitlines()) == 1


def check_read_back(task: Task, rows: list[tuple[str, str, str]]) -> None:
    found = [
        (example.input, example.options[example.label], example.attributes["note"])
        for example in task.examples
        if example.label is not None
    ]
    assert found == rows
    assert task.options == tuple(sorted({label for _, label, _ in rows}))


@patient
@given(well_formed, st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]))
def test_csv_reads_back(rows: list[tuple[str, str, str]], end: str, mark: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label", "note"), *rows])
    check_read_back(read_content((mark + file.getvalue()).encode(), ".csv"), rows)


@patient
@given(well_formed, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_jsonl_reads_back(rows: list[tuple[str, str, str]], end: str, ascii_only: bool) -> None:
    lines = (
        json.dumps({"note": note, "label": label, "text": text}, ensure_ascii=ascii_only)
        for text, label, note in rows
    )
    check_read_back(read_content(end.join(lines).encode(), ".jsonl"), rows)
