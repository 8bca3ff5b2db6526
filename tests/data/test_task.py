import pytest

from bayes_lora.data import Example, Task
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
    task.check_trainable()


@pytest.mark.parametrize("other", [("good", "bad"), ("bad", "good", "so-so")])
def test_differing_options_name_both_rows(other: tuple[str, ...]) -> None:
    task = task_of((("bad", "good"), 1), (("bad", "good"), 0), (other, 0))
    with pytest.raises(InputDataError, match=r"row 4.*differ.*row 2"):
        _ = task.options


def test_the_first_row_without_a_label_is_named() -> None:
    task = task_of((("a", "b"), 1), (("a", "b"), None), (("a", "b"), None))
    with pytest.raises(InputDataError, match="row 3: there is no label"):
        _ = task.labels


def test_one_class_cannot_be_learnt() -> None:
    task = task_of((("bad", "good"), 1), (("bad", "good"), 1))
    with pytest.raises(InputDataError, match=r"reviews: one class only, all 2 rows .*'good'"):
        task.check_trainable()


def test_an_empty_task_has_no_options() -> None:
    with pytest.raises(InputDataError, match="reviews: there are no examples"):
        task_of().check_trainable()


def test_examples_can_be_counted_and_compared() -> None:
    first, second = (
        Example(input="t", options=("a", "b"), label=0, attributes={"k": "v"}, where="row 2")
        for _ in range(2)
    )
    assert len({first, second}) == 1
