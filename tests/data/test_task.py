import pytest

from bayes_lora.data import Example, Kind, Task, TaskSet, unlabelled
from bayes_lora.errors import InputDataError


def task_of(*rows: tuple[tuple[str, ...], int | None]) -> Task:
    return Task(
        "reviews",
        tuple(
            Example(input="text", options=options, label=label, where=f"reviews.csv, row {n}")
            for n, (options, label) in enumerate(rows, start=2)
        ),
    )


def test_a_task_knows_its_size_options_and_labels() -> None:
    task = task_of((("bad", "good"), 1), (("bad", "good"), 0))
    assert len(task) == 2
    assert task.options == ("bad", "good")
    assert task.labels == [1, 0]


@pytest.mark.parametrize("other", [("good", "bad"), ("bad", "good", "so-so")])
def test_differing_options_name_both_rows(other: tuple[str, ...]) -> None:
    task = task_of((("bad", "good"), 1), (("bad", "good"), 0), (other, 0))
    with pytest.raises(InputDataError, match=r"row 4.*differ.*row 2"):
        _ = task.options


def test_the_first_row_without_a_label_is_named() -> None:
    task = task_of((("a", "b"), 1), (("a", "b"), None), (("a", "b"), None))
    with pytest.raises(InputDataError, match="row 3: there is no label"):
        _ = task.labels


def test_an_empty_task_has_no_options() -> None:
    with pytest.raises(InputDataError, match="reviews: there are no examples"):
        _ = task_of().options


def test_examples_can_be_counted_and_compared() -> None:
    first, second = (
        Example(input="t", options=("a", "b"), label=0, attributes={"k": "v"}, where="row 2")
        for _ in range(2)
    )
    assert len({first, second}) == 1


def test_attributes_are_named_in_order_of_appearance() -> None:
    rows = [{"user": "u", "shop": "s"}, {"date": "d", "user": "v"}]
    examples = tuple(
        Example(input="t", options=("a", "b"), label=0, attributes=row, where="") for row in rows
    )
    assert Task("reviews", examples).attributes == ("user", "shop", "date")
    assert Task("reviews", ()).attributes == ()


def test_texts_become_examples_without_labels() -> None:
    first, second = unlabelled(["one", "two"], ["a", "b"])
    assert (first.input, first.options, first.label) == ("one", ("a", "b"), None)
    assert (first.where, second.where) == ("text 1", "text 2")


def test_a_task_set_is_its_tasks() -> None:
    task = task_of((("a", "b"), 1))
    tasks = TaskSet((task,), ("one was left out",))
    assert (list(tasks), len(tasks)) == ([task], 1)
    assert (task.kind, task.split, task.warnings) == (Kind.FIXED_LABELS, None, ())
    assert str(Kind.MULTIPLE_CHOICE) == "multiple choice"
