"""Published layouts: any bytes are read or refused on purpose; well-formed files read back."""

import gc
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bayes_lora.data import Example, Kind, Task, inspect, read
from bayes_lora.data.lettered import cut_list, cut_text
from bayes_lora.errors import BayesLoraError, ConfigError, InputDataError

# A busy machine must not fail a test that is only slow.
patient = partial(settings, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# What stands in the files, and what could be taken for it.
pieces = st.sampled_from(
    [
        *("question", "yes", "no", "a", "b", "(A)", "(B)", "(C)", "(D)", " (A) ", " (B) ", "(1)"),
        *("\t", "\n", "\r\n", " ", " \\n ", "\\n", "[SEP]", " [SEP] ", "\x85", "\u2028", "\xa0"),
        *("\0", "\ufeff", "{", "}", "[", "]", '"', ",", ":", "null", "1e999"),
        *("q \\n (A) a (B) b\ta\n", "q (A) a (B) b\ta\n", "q\tyes\n", "r\tno\n"),
        '{"input": "q", "output": "a", "options": ["a", "b"]}\n',
        '{"task": "t", "input": ',
        *('"output": "a", ', '"options": ["a", "b"]}\n', '["a", "b"]', '{"train": ["t"], "test": '),
    ]
)
contents = st.binary() | st.lists(pieces, max_size=25).map(lambda found: "".join(found).encode())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | pieces,
    lambda inner: st.lists(inner) | st.dictionaries(pieces, inner),
)
json_rows = st.lists(
    st.dictionaries(st.sampled_from(["task", "input", "output", "options", "x"]), json_values),
    max_size=4,
)
# Texts as they stand in the files once white space is collapsed; never a letter in brackets.
clean_text = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0()[]\\"), min_size=1)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)
ends = st.sampled_from(["\n", "\r\n", "\n\n"])
marks = st.sampled_from(["", "\ufeff"])
option_lists = st.lists(clean_text, min_size=2, max_size=6, unique=True)
# A question, its options, and which is right.
questions = st.tuples(clean_text, option_lists, st.integers(0, 5)).map(
    lambda row: (row[0], tuple(row[1]), row[2] % len(row[1]))
)
# Answers enough for no one to take them for free text.
labelled = st.lists(
    st.tuples(clean_text, st.sampled_from(["bad", "good"])), min_size=2, max_size=9
).filter(lambda rows: len({label for _, label in rows}) > 1)


def read_files(files: Mapping[str, bytes], spec: str, **options: str) -> Task:
    """The one task that a SPEC, in which {} is the folder of the files, names."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        given_options = {key: value.format(folder) for key, value in options.items()}
        (task,) = read(spec.format(folder), **given_options)
        inspect(spec.format(folder), **given_options)
        return task


def check_refused_on_purpose(files: Mapping[str, bytes], spec: str, **options: str) -> None:
    """Any error but those two fails the test, and so does an example that no model could take."""
    message = "read"
    examples: Sequence[Example] = ()
    try:
        examples = read_files(files, spec, **options).examples
    except (InputDataError, ConfigError) as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert examples or message != "read"
    for example in examples:
        assert example.input == example.input.strip() != ""
        assert len(set(example.options)) == len(example.options) > 1
        assert example.label is None or 0 <= example.label < len(example.options)


def jsonl(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@patient()
@given(contents, contents)
def test_malformed_crossfit_tsv(train: bytes, test: bytes) -> None:
    files = {"t/t_4_13_train.tsv": train, "t/t_4_13_test.tsv": test}
    check_refused_on_purpose(files, "crossfit:{}/t#train")


@patient()
@given(contents | json_rows.map(jsonl), contents | json_rows.map(jsonl))
def test_malformed_crossfit_jsonl(train: bytes, dev: bytes) -> None:
    files = {"t/t_4_13_train.jsonl": train, "t/t_4_21_dev.jsonl": dev}
    check_refused_on_purpose(files, "crossfit:{}@13#train")


@patient()
@given(contents)
def test_malformed_unifiedqa(content: bytes) -> None:
    check_refused_on_purpose({"t/test.tsv": content}, "unifiedqa:{}/t#test")


@patient()
@given(contents | json_values.map(lambda value: json.dumps(value).encode()))
def test_malformed_partitions(content: bytes) -> None:
    files = {"data/t/t_4_13_train.tsv": b"q\tyes\nr\tno\n", "parts.json": content}
    check_refused_on_purpose(files, "crossfit:{}/data#train", partition="{}/parts.json")


# The library leaves a csv file open that it fails to parse, until it is collected.
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
@patient(max_examples=20)
@given(st.sampled_from(["csv", "jsonl", "parquet"]), contents | json_rows.map(jsonl))
def test_malformed_hub_folders(extension: str, content: bytes) -> None:
    pytest.importorskip("datasets")
    check_refused_on_purpose({f"train.{extension}": content}, "hub:{}#train")
    gc.collect()


@patient()
@given(st.sampled_from(["crossfit:", "unifiedqa:"]), st.text(max_size=20))
def test_arbitrary_locations(scheme: str, text: str) -> None:
    with pytest.raises(BayesLoraError) as caught:
        read(scheme + text, split="train")
    assert len(str(caught.value).splitlines()) == 1


def check_labels(task: Task, rows: Sequence[tuple[str, str]]) -> None:
    found = [
        (e.input, e.options[label]) for e, label in zip(task.examples, task.labels, strict=True)
    ]
    assert found == list(rows)
    assert task.options == ("bad", "good")


@patient()
@given(labelled, ends, marks)
def test_labels_read_back_from_tsv(rows: list[tuple[str, str]], end: str, mark: str) -> None:
    lines = end.join(f"{text}\t{label}" for text, label in rows)
    files = {"t_4_13_train.tsv": (mark + lines).encode()}
    check_labels(read_files(files, "crossfit:{}#train"), rows)


@patient()
@given(labelled, ends, marks)
def test_labels_read_back_from_jsonl(rows: list[tuple[str, str]], end: str, mark: str) -> None:
    lines = end.join(
        json.dumps({"input": text, "output": label, "options": ["good", "bad"]})
        for text, label in rows
    )
    files = {"t_4_13_train.jsonl": (mark + lines).encode()}
    check_labels(read_files(files, "crossfit:{}#train"), rows)


def lettered(options: Sequence[str]) -> str:
    return " ".join(f"({letter}) {text}" for letter, text in zip("ABCDEF", options, strict=False))


def check_questions(task: Task, rows: Sequence[tuple[str, tuple[str, ...], int]]) -> None:
    if task.kind is Kind.MULTIPLE_CHOICE:
        assert [(e.input, e.options, e.label) for e in task.examples] == list(rows)
    else:
        expected = [(text, options[label]) for text, options, label in rows]
        found = [(e.input, e.options[e.label or 0]) for e in task.examples]
        assert found == expected


def jsonl_line(text: str, options: tuple[str, ...], label: int) -> str:
    return json.dumps({"input": text, "output": options[label], "options": options})


@pytest.mark.parametrize(
    ("file", "spec", "line"),
    [
        (
            "t_4_13_train.tsv",
            "crossfit:{}#train",
            lambda text, options, label: f"{text} {lettered(options)}\t{options[label]}",
        ),
        (
            "train.tsv",
            "unifiedqa:{}#train",
            lambda text, options, label: f"{text} \\n {lettered(options)}\t{options[label]}",
        ),
        ("t_4_13_train.jsonl", "crossfit:{}#train", jsonl_line),
    ],
)
@patient()
@given(st.lists(questions, min_size=1, max_size=5), ends, marks)
def test_questions_read_back(
    file: str,
    spec: str,
    line: Callable[[str, tuple[str, ...], int], str],
    rows: list[tuple[str, tuple[str, ...], int]],
    end: str,
    mark: str,
) -> None:
    content = mark + end.join(line(*row) for row in rows)
    check_questions(read_files({file: content.encode()}, spec), rows)


nasty_text = st.lists(
    st.sampled_from(["(A)", "(B)", "ice", "steam", "[SEP]"]), min_size=1, max_size=5
).map(" ".join)


@patient()
@given(st.lists(nasty_text, min_size=2, max_size=4, unique=True), st.integers(0, 3))
def test_options_full_of_letters_never_lose_the_answer(options: list[str], label: int) -> None:
    answer = options[label % len(options)]
    for cut in (
        cut_list(lettered(options), answer),
        cut_text(f"Which? {lettered(options)}", answer, "[END]"),
    ):
        assert cut is not None
        assert answer in cut.options
        assert cut.doubtful or list(cut.options) == options


@patient(max_examples=20)
@given(labelled, st.sampled_from(["csv", "jsonl", "parquet"]))
def test_hub_folders_read_back(rows: list[tuple[str, str]], extension: str) -> None:
    datasets = pytest.importorskip("datasets")
    texts, labels = zip(*rows, strict=True)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        data = datasets.Dataset.from_dict({"text": texts, "label": labels})
        write = {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[extension]
        write(f"{folder}/train.{extension}")
        (task,) = read(f"hub:{folder}#train")
    check_labels(task, rows)
