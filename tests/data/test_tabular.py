import csv
import json
import re
from pathlib import Path

import pytest

from bayes_lora.data import Example, Kind, Task, read_tabular, write_csv
from bayes_lora.errors import ConfigError, InputDataError


def rows(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def refusal(path: Path, content: str | bytes, options: list[str] | None = None) -> str:
    """The one-line message the file is refused with, which must name it."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputDataError) as caught:
        read_tabular(path, options=options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert path.name in message
    return message


def test_csv_with_attributes(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,store\n Fine. , good ,Rome\nBroke.,bad,\n")
    assert read_tabular(path) == Task(
        "reviews",
        (
            Example(
                input="Fine.",
                options=("bad", "good"),
                label=1,
                attributes={"store": "Rome"},
                where="reviews.csv, row 2",
            ),
            Example(
                input="Broke.",
                options=("bad", "good"),
                label=0,
                attributes={"store": ""},
                where="reviews.csv, row 3",
            ),
        ),
    )


def test_jsonl_with_options_and_scalar_attributes(tmp_path: Path) -> None:
    path = tmp_path / "x.JSONL"
    path.write_text(
        '{"input": "2+2?", "output": "4", "options": ["4", "5"], "n": 1.50, "ok": true}\n\n'
        '{"input": "Sky?", "output": "blue", "options": ["red", "blue"], "n": null}\n'
    )
    first, second = read_tabular(path).examples
    assert (first.options, first.label) == (("4", "5"), 0)
    assert first.attributes == {"n": "1.50", "ok": "true"}
    assert (second.options, second.label, second.where) == (("red", "blue"), 1, "x.JSONL, line 3")
    assert second.attributes == {"n": ""}


def test_csv_with_options(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('input,output,options\nSky?,blue,"[""red"", ""blue""]"\n')
    (example,) = read_tabular(path).examples
    assert (example.options, example.label) == (("red", "blue"), 1)


@pytest.mark.parametrize(
    ("labels", "options"),
    [((0, 1), ("0", "1")), ((True, False), ("false", "true")), (("1", 0), ("0", "1"))],
)
def test_json_labels_are_taken_as_written(
    tmp_path: Path, labels: tuple[object, object], options: tuple[str, str]
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(rows(*({"text": "t", "label": label} for label in labels)))
    assert read_tabular(path).options == options


def test_given_options_keep_their_order_and_allow_missing_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\none,good\ntwo,\n")
    task = read_tabular(path, options=["good", "bad", "mixed"])
    assert task.options == ("good", "bad", "mixed")
    assert [example.label for example in task.examples] == [0, None]
    path.write_text("text\none\n")
    assert read_tabular(path, options=["good", "bad"]).examples[0].label is None


def test_given_options_order_the_options_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(rows({"text": "t", "label": "b", "options": ["b", "a"]}, {"text": "u"}))
    task = read_tabular(path, options=["a", "b"])
    assert task.options == ("a", "b")
    assert [example.label for example in task.examples] == [1, None]


@pytest.mark.parametrize(
    "content", ["text,label\none,b\n", "text,label\none,\n", "text\none\n", "text,label\n1,a\n2,\n"]
)
def test_a_runs_label_set_is_used_where_it_covers_the_labels(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    task = read_tabular(path, label_sets=[["b", "a"]])
    assert (task.options, task.warnings, task.kind) == (("b", "a"), (), Kind.FIXED_LABELS)


def test_labels_outside_a_runs_label_sets_are_the_options_instead(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\none,c\ntwo,b\n")
    task = read_tabular(path, label_sets=[["a", "b"]])
    assert (task.options, task.labels) == (("b", "c"), [1, 0])
    (warning,) = task.warnings
    assert warning == (
        "the options are the labels that occur in the file, 'b', 'c', not those of the run, "
        "'a', 'b'"
    )
    path.write_text("text,label\none,c\ntwo,b\nthree,\n")
    assert read_tabular(path, label_sets=[["a", "b"]]).examples[2].label is None


def test_of_several_label_sets_the_least_that_covers_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\none,a\ntwo,b\n")
    sets = [["a", "b", "c", "d"], ["c", "b", "a"], ["x", "y"]]
    task = read_tabular(path, label_sets=sets)
    assert task.options == ("c", "b", "a")
    assert task.warnings == (
        "the options are taken to be those of a task of the run, 'c', 'b', 'a'; 'c' occurs nowhere "
        "in the file: if that is wrong, add a column 'options'",
    )
    path.write_text("text,label\none,a\ntwo,b\nthree,c\n")
    assert read_tabular(path, label_sets=sets).warnings == ()
    path.write_text("text\none\n")
    with pytest.raises(InputDataError, match="nothing to choose from"):
        read_tabular(path, label_sets=sets)


def test_without_any_label_set_the_files_labels_are_a_guess(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\none,a\ntwo,b\n")
    task = read_tabular(path, label_sets=[])
    assert task.options == ("a", "b")
    assert task.warnings == ("the options are the labels that occur in the file, 'a', 'b'",)


def test_a_column_of_options_comes_before_a_runs_label_set(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(rows({"text": "t", "options": ["x", "y"]}))
    task = read_tabular(path, label_sets=[["a", "b"]])
    assert (task.options, task.examples[0].label) == (("x", "y"), None)
    with pytest.raises(ConfigError, match="give one of them"):
        read_tabular(path, label_sets=[["a", "b"]], options=["a", "b"])


def test_options_that_differ_are_multiple_choice_and_the_same_set_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    first = {"text": "t", "label": "b", "options": ["b", "a"]}
    path.write_text(rows(first, {"text": "u", "label": "b", "options": ["a", "b"]}))
    task = read_tabular(path)
    assert (task.kind, task.options, task.labels) == (Kind.FIXED_LABELS, ("b", "a"), [0, 0])
    path.write_text(rows(first, {"text": "u", "label": "b", "options": ["c", "b"]}))
    task = read_tabular(path)
    assert task.kind is Kind.MULTIPLE_CHOICE
    assert [example.options for example in task.examples] == [("b", "a"), ("c", "b")]


def test_byte_order_mark_crlf_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\n\r\none,a\r\ntwo,b\r\n\r\n")
    task = read_tabular(path)
    assert [example.input for example in task.examples] == ["one", "two"]
    assert task.examples[0].where == "x.csv, row 3"
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text":"one\xe2\x80\xa8","label":0}\r\n{"text":"two","label":1}\r\n'
    )
    assert read_tabular(path).labels == [0, 1]


def test_rows_are_called_by_the_physical_line_they_start_on(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"one\nand\nmore",a\ntwo,b\n')
    first, second = read_tabular(path).examples
    assert first.input == "one\nand\nmore"
    assert (first.where, second.where) == ("x.csv, row 2", "x.csv, row 5")


def test_fields_larger_than_the_limit_of_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    limit = csv.field_size_limit()
    long = "word " * limit + "end"
    path.write_text(f"text,label\n{long},a\nshort,b\n")
    assert read_tabular(path).examples[0].input == long
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        (b"\xef\xbb\xbf\r\n", "empty"),
        ("text,label\n", "header but no rows"),
        ("label,review\na,b\n", "no column 'text'.*'label', 'review'"),
        ("text,stars\na,b\n", "no column 'label'.*'text', 'stars'"),
        ("input,label\na,b\n", "no column 'output'.*'input', 'label'"),
        ("text,input,label\na,b,c\n", "both 'text' and 'input'"),
        ("text,label\none,a\n  ,b\n", "row 3: 'text' is empty"),
        ("text,label\none,a\ntwo, \n", "row 3: 'label' is empty"),
        ("text,label,text\na,b,c\n", "header: column 'text' occurs twice"),
        ("text,label\none,a\ntwo,b,c\n", "row 3: 3 fields where the header has 2"),
        ("text,label\none\n", "row 2: 1 fields where"),
        ("text,label\none,a\ntwo,a\n", "one class only, all 2 rows .*'a'"),
        ('text,label\none,a\n"two,b\nthree,c\n', "row 3: not valid csv.*quotes"),
        ('text,label\n"one"!,a\n', "row 2: not valid csv"),
        (b"text,label\none,a\ntw\xff,b\n", "line 3: byte 0xff.*not UTF-8 at byte offset 19"),
        ("text,label\n".encode("utf-16"), "line 1: a NUL byte at byte offset 3; save .* UTF-8"),
        ("text,label\none,a\nt\0,b\n", "line 3: a NUL byte at byte offset 18"),
        ("input,output,options\nq,a,a|b\n", "row 2, 'options': not valid JSON"),
        ("input,output,options\nq,a,\n", "row 2, 'options': not valid JSON"),
        ("input,output,options\nq,a,7\n", "row 2: 'options' is not a JSON list"),
        ('input,output,options\nq,a,"[""a"",""a ""]"\n', "row 2: an option is repeated.*'a', 'a'"),
        ('input,output,options\nq,a,"[""a"",""""]"\n', "row 2: an option is empty"),
        ('input,output,options\nq,a,"[""a""]"\n', "row 2: there must be two options or more"),
        ('input,output,options\nq,c,"[""a"",""b""]"\n', "row 2: label 'c' .* 'a', 'b'"),
        ('input,output,options\nq,,"[""a"",""b""]"\n', "row 2: 'output' is empty"),
    ],
)
def test_csv_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert re.search(message, refusal(tmp_path / "x.csv", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n \n", "empty"),
        (
            rows({"text": "t", "label": "a"}) + "{'text': 1}\n",
            "line 2: not valid JSON.*character 2",
        ),
        (rows(["t", "a"]), "line 1: not a JSON object"),
        (rows({"text": "t", "label": "a"}, {"txt": "t", "label": "b"}), "line 2: 'text' is empty"),
        (rows({"text": "t", "label": "a"}, {"text": "t"}), "line 2: 'label' is empty"),
        (rows({"text": "t", "label": None}), "line 1: 'label' is empty"),
        (rows({"txt": "t", "label": "a"}), "no column 'text'.*'txt', 'label'"),
        ('{"text": "t", "text": "u", "label": "a"}', "line 1: column 'text' occurs twice"),
        (rows({"text": "t", "label": "a", "meta": {"k": 1}}), "line 1: there is a nested value"),
        (rows({"text": "t", "label": "a", "meta": [[1]]}), "line 1: there is a nested value"),
        (rows({"text": "t", "label": ["a"]}), "line 1: 'label' is a list"),
        (
            rows({"text": "t", "label": "a", "options": ["a", "b"], "tags": ["x"]}),
            "line 1: 'tags' is a list",
        ),
        (rows({"text": "\0", "label": "a"}), "line 1: .*u0000"),
        ('{"text": "\\ud800", "label": "a"}', "line 1: .*surrogate"),
        ("[" * 200_000, "line 1: the JSON is nested too deep"),
        (
            rows({"text": "t", "label": "a", "options": ["a", "b"]}, {"text": "t", "label": "a"}),
            "line 2: 'options' is not a JSON list",
        ),
        (rows({"text": "t", "label": "a", "options": ["a"]}), "line 1: there must be two options"),
    ],
)
def test_jsonl_refused(tmp_path: Path, content: str, message: str) -> None:
    assert re.search(message, refusal(tmp_path / "x.jsonl", content))


def test_a_label_unknown_to_the_run_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path / "x.csv", "text,label\none,a\ntwo,c\n", options=["a", "b"])
    assert "row 3: label 'c' is not among the options 'a', 'b'" in message


def test_options_other_than_those_of_the_run_are_refused(tmp_path: Path) -> None:
    content = rows({"text": "t", "label": "a", "options": ["a", "c"]})
    message = refusal(tmp_path / "x.jsonl", content, options=["a", "b"])
    assert "line 1: the options 'a', 'c' are not the ones given, 'a', 'b'" in message


@pytest.mark.parametrize("options", [[], ["a"], ["a", "a "], ["a", ""]])
def test_unusable_given_options_are_refused(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text\none\n")
    with pytest.raises(InputDataError, match="the options given"):
        read_tabular(path, options=options)


def test_long_lists_are_cut_in_messages(tmp_path: Path) -> None:
    options = [f"option {n}" for n in range(100)]
    message = refusal(tmp_path / "x.csv", "text,label\none,other\n", options=options)
    assert "'option 11' and 88 more" in message


def test_a_path_without_a_readable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputDataError, match=r"none\.csv': no such file"):
        read_tabular(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputDataError, match=r"folder\.csv': this is a directory"):
        read_tabular(tmp_path / "folder.csv")
    with pytest.raises(InputDataError, match="cannot be read"):
        read_tabular("a\0b.csv")
    with pytest.raises(InputDataError, match=r"unknown extension; give a \.csv or \.jsonl"):
        read_tabular(tmp_path / "x.tsv")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    texts = ['say "hi", now', "two\nlines", "lone\rreturn", "naïve 🙂", "=1+1"]
    task = Task(
        "mine",
        tuple(
            Example(input=text, options=("a", "b"), label=n % 2, where="")
            for n, text in enumerate(texts)
        ),
    )
    write_csv(task, tmp_path / "mine.csv")
    read = read_tabular(tmp_path / "mine.csv")
    assert [example.input for example in read.examples] == texts
    assert (read.name, read.options, read.labels) == ("mine", ("a", "b"), task.labels)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.csv"]


def test_examples_without_a_label_are_written_with_an_empty_one(tmp_path: Path) -> None:
    unlabelled = Example(input="t", options=("a", "b"), label=None, where="")
    write_csv(Task("mine", (unlabelled,)), tmp_path / "mine.csv")
    assert read_tabular(tmp_path / "mine.csv", options=("a", "b")).examples[0].label is None


def test_attributes_are_written_and_one_that_a_row_lacks_is_empty(tmp_path: Path) -> None:
    attributes = ({"user": "ann", "store": "Rome, centre"}, {"store": "Oslo"}, {})
    task = Task(
        "mine",
        tuple(
            Example(input="t", options=("a", "b"), label=n % 2, attributes=own, where="")
            for n, own in enumerate(attributes)
        ),
    )
    write_csv(task, tmp_path / "mine.csv")
    assert [example.attributes for example in read_tabular(tmp_path / "mine.csv").examples] == [
        {"user": "ann", "store": "Rome, centre"},
        {"user": "", "store": "Oslo"},
        {"user": "", "store": ""},
    ]


@pytest.mark.parametrize("name", ["text", "label", "input", "options"])
def test_an_attribute_that_would_be_read_as_another_column_is_refused(
    tmp_path: Path, name: str
) -> None:
    example = Example(input="t", options=("a", "b"), label=0, attributes={name: "x"}, where="")
    with pytest.raises(ConfigError, match=f"mine: the attribute '{name}' would be read back"):
        write_csv(Task("mine", (example,)), tmp_path / "mine.csv")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("old")
    broken = Example(input="\ud800", options=("a", "b"), label=0, where="")
    with pytest.raises(UnicodeEncodeError):
        write_csv(Task("mine", (broken,)), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "no").write_text("a file, where a folder is needed")
    with pytest.raises(ConfigError, match=r"no/mine\.csv' cannot be written"):
        write_csv(Task("mine", ()), tmp_path / "no" / "mine.csv")
