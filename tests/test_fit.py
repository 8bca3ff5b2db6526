"""What cannot be fitted is refused before any work is done."""

import pytest

from bayes_lora import Task
from bayes_lora.data import Example, unlabelled
from bayes_lora.errors import InputDataError
from bayes_lora.inference.fit import check_trainable

OPTIONS = ("bad", "good")


def task_of(*labels: int | None) -> Task:
    examples = (
        Example(input="text", options=OPTIONS, label=label, where=f"reviews.csv, row {i}")
        for i, label in enumerate(labels, start=2)
    )
    return Task("reviews", tuple(examples))


def test_two_classes_can_be_learnt_even_from_two_tasks() -> None:
    check_trainable([task_of(0, 1)])
    check_trainable([task_of(0, 0), task_of(1, 1)])


def test_what_cannot_be_learnt() -> None:
    with pytest.raises(InputDataError, match=r"reviews: one class only, all 2 rows .*'good'"):
        check_trainable([task_of(1, 1)])
    with pytest.raises(InputDataError, match="row 3: there is no label"):
        check_trainable([task_of(1, None)])
    with pytest.raises(InputDataError, match="text 1: there is no label"):
        check_trainable([Task("new", tuple(unlabelled(["x"], OPTIONS)))])
    with pytest.raises(InputDataError, match="no task to fit"):
        check_trainable([])
