from pathlib import Path

import pytest

from bayes_lora.data import Kind, Task, read
from bayes_lora.errors import InputDataError

LINES = "Hot? \\n (A) ice (B) steam\tsteam\nCold? \\n (A) ice (B) fire\tice\n"


def read_lines(folder: Path, content: str | bytes) -> Task:
    folder = folder / "facts"
    folder.mkdir(exist_ok=True)
    (folder / "test.tsv").write_bytes(content.encode() if isinstance(content, str) else content)
    (task,) = read(f"unifiedqa:{folder}", split="test")
    return task


def test_questions_become_multiple_choice(tmp_path: Path) -> None:
    task = read_lines(tmp_path, LINES)
    assert (task.name, task.split, task.kind) == ("facts", "test", Kind.MULTIPLE_CHOICE)
    first, second = task.examples
    assert (first.input, first.options, first.label) == ("Hot?", ("ice", "steam"), 1)
    assert (second.input, second.options, second.label) == ("Cold?", ("ice", "fire"), 0)
    assert (first.where, task.warnings) == ("facts/test.tsv, line 1", ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Q \\n (A) x (B) y \\n a passage", "Q \\n a passage"),
        ("Q \\n (A) x (B) y \\n (A) passage (B) of letters", "Q \\n (A) passage (B) of letters"),
        ("Q \\n (A) x (B) y \\n one \\n two", "Q \\n one \\n two"),
        ("Q1 \\n Q2 \\n (A) x (B) y", "Q1 \\n Q2"),
        ("Is it (A) or (B)? \\n (A) x (B) y", "Is it (A) or (B)?"),
        ("  Q   Q \\n  (A) x  (B) y", "Q Q"),
    ],
)
def test_a_passage_stays_behind_the_question(tmp_path: Path, text: str, expected: str) -> None:
    (example,) = read_lines(tmp_path, f"{text}\ty\n").examples
    assert (example.input, example.options, example.label) == (expected, ("x", "y"), 1)


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ("(A) 1 (B) 2 (C) 3 (D) 4 (E) 5 (F) 6", "6", tuple("123456")),
        ("(A) vitamin (B) pill (B) iron", "vitamin (B) pill", ("vitamin (B) pill", "iron")),
        ("(A) x (B) solid (S) y", "x", ("x", "solid (S) y")),
    ],
)
def test_letters_inside_options(
    tmp_path: Path, options: str, answer: str, expected: tuple[str, ...]
) -> None:
    task = read_lines(tmp_path, f"Q \\n {options}\t{answer}\n")
    assert task.examples[0].options == expected
    assert any("may or may not begin an option" in w for w in task.warnings) is (len(expected) < 6)


def test_equal_options_and_answers_that_are_no_option(tmp_path: Path) -> None:
    lines = LINES + "Q \\n (A) x (B) y (C) x\ty\nQ \\n (A) x (B) y\tz\nQ \\n (A) x (B) x\tx\n"
    task = read_lines(tmp_path, lines)
    assert [example.options for example in task.examples][2:] == [("x", "y")]
    assert task.warnings[:3] == (
        "1 row with equal options, which are merged: facts/test.tsv, line 3",
        "1 row dropped, with fewer than two options that differ: facts/test.tsv, line 5",
        "1 row dropped, whose answer is not among the options: facts/test.tsv, line 4",
    )


def test_a_folder_of_sets_is_several_tasks(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.tsv").write_text(LINES)
    (tmp_path / "one" / "test.tsv").write_text(LINES)
    (tmp_path / "empty").mkdir()
    assert [task.name for task in read(f"unifiedqa:{tmp_path}#train")] == ["one", "two"]
    tasks = read(f"unifiedqa:{tmp_path}#test")
    assert [task.name for task in tasks] == ["one"]
    assert tasks.tasks[0].warnings == (
        "2 test rows also stand, with the same options, in train or dev",
    )
    with pytest.raises(InputDataError, match="there is no UnifiedQA set in it"):
        read(f"unifiedqa:{tmp_path}/empty#test")


def test_crlf_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode()
    plain = read_lines(tmp_path, LINES)
    assert read_lines(tmp_path, content) == plain


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + "Q \\n (A) x (B) y\n", "facts/test.tsv, line 3: 1 column where"),
        (LINES + "Who? \\n a passage\tanyone\n", "facts/test.tsv, line 3: there are no options"),
        (LINES + "Q (A) x (B) y\tx\n", "facts/test.tsv, line 3: there are no options"),
        (LINES + "Q \\n (A) x\tx\n", "facts/test.tsv, line 3: there are no options"),
        (LINES + " \tx\n", "facts/test.tsv, line 3: 'input' is missing or empty"),
        ("", "facts/test.tsv: the file is empty"),
        (LINES.encode() + b"caf\xe9\tx\n", "facts/test.tsv, line 3: byte 0xe9"),
        ("Q \\n (A) x (B) y\tz\n", "facts, test: no row can be used: 1 row dropped"),
    ],
)
def test_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(InputDataError) as caught:
        read_lines(tmp_path, content)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
