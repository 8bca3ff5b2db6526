import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bayes_lora.data import Task, generate_reviews, levels_of, read, write_csv
from bayes_lora.data.reviews import OPTIONS, Reviews, generate_reviews_with_probabilities
from bayes_lora.errors import ConfigError


@pytest.fixture(scope="module")
def many() -> Reviews:
    """Ten reviews each of so many users that a mean over severities is near its limit."""
    return generate_reviews_with_probabilities(4000, 40_000, 0, unseen=0)


def _users(task: Task) -> list[str]:
    return [example.attributes["user"] for example in task.examples]


def _nll(probabilities: list[tuple[float, ...]], labels: list[int]) -> float:
    drawn = [row[label] for row, label in zip(probabilities, labels, strict=True)]
    return -sum(map(math.log, drawn)) / len(drawn)


def _accuracy(probabilities: list[tuple[float, ...]], labels: list[int]) -> float:
    return float((np.array(probabilities).argmax(1) == labels).mean())


def test_the_same_seed_makes_the_same_task_and_another_seed_another() -> None:
    for unseen in (None, 2):
        task = generate_reviews(5, 50, 3, unseen=unseen)
        assert task == generate_reviews(5, 50, 3, unseen=unseen)
        assert task == generate_reviews_with_probabilities(5, 50, 3, unseen=unseen).task
        assert task != generate_reviews(5, 50, -3, unseen=unseen)


def test_options_are_in_rating_order_and_every_rating_is_common(many: Reviews) -> None:
    assert many.task.options == OPTIONS == ("poor", "fair", "good")
    counts = Counter(many.task.labels)
    assert min(counts.values()) > 0.17 * len(many.task)
    assert max(counts.values()) < 0.45 * len(many.task)


def test_some_users_wrote_a_review_or_two_and_some_more_than_twenty() -> None:
    for seed in range(10):
        counts = Counter(_users(generate_reviews(40, 400, seed))).values()
        assert (len(counts), sum(counts)) == (40, 400)
        assert sum(count <= 2 for count in counts) >= 3
        assert sum(count > 20 for count in counts) >= 2
        assert max(counts) < 120


def test_a_test_task_has_all_users_alike_often_and_some_never_seen() -> None:
    train, test = generate_reviews(40, 400, 0), generate_reviews(40, 5000, 0, unseen=10)
    known, asked = levels_of([train], "user"), levels_of([test], "user")
    assert known.names == tuple(f"user {number:02}" for number in range(1, 41))
    assert asked.names == tuple(f"user {number:02}" for number in range(1, 51))
    assert min(asked.counts) > 60
    assert max(asked.counts) < 140
    assert (train.split, test.split) == ("train", "test")


def test_a_users_habits_are_the_same_in_both_tasks() -> None:
    """The share of "good" beside what the text alone says moves together."""
    shares = []
    for unseen in (None, 0):
        made = generate_reviews_with_probabilities(30, 20_000, 1, unseen=unseen)
        above = [
            (label == 2) - chances[2]
            for label, chances in zip(made.task.labels, made.by_text, strict=True)
        ]
        users = np.array(_users(made.task))
        known = levels_of([made.task], "user").names
        shares.append([np.array(above)[users == user].mean() for user in known])
    assert np.std(shares[0]) > 0.15
    assert np.corrcoef(shares)[0, 1] > 0.95


def test_labels_follow_both_distributions(many: Reviews) -> None:
    for probabilities, wide in ((many.by_user, 0.02), (many.by_text, 0.03)):
        chances = np.array(probabilities)
        assert chances.sum(1) == pytest.approx(1.0)
        hits = np.eye(3)[many.task.labels]
        for low in np.arange(0.0, 1.0, 0.25):  # of the chances near a half, half come true
            near = (chances > low) & (chances < low + 0.25)
            assert hits[near].mean() == pytest.approx(chances[near].mean(), abs=wide)


def test_the_best_possible_figures_are_those_of_the_docstring(many: Reviews) -> None:
    labels = many.task.labels
    assert _nll(many.by_text, labels) == pytest.approx(0.82, abs=0.015)
    assert _accuracy(many.by_text, labels) == pytest.approx(0.66, abs=0.01)
    assert _nll(many.by_user, labels) == pytest.approx(0.18, abs=0.01)
    assert _accuracy(many.by_user, labels) == pytest.approx(0.924, abs=0.006)


def test_reviews_are_finished_and_seldom_repeat() -> None:
    train, test = (
        [example.input for example in generate_reviews(40, 400, 0, unseen=unseen).examples]
        for unseen in (None, 0)
    )
    texts = train + test
    assert not [text for text in texts if set(text) & set("[]{}|") or "  " in text]
    assert all(text == text.strip() and text[0].isupper() and text[-1] == "." for text in texts)
    assert len(set(train)) > 390
    assert sum(text in train for text in test) < 8
    assert not any("user" in text for text in texts)


def test_the_files_of_the_demo_read_back(tmp_path: Path) -> None:
    task = generate_reviews(40, 200, 0)
    write_csv(task, tmp_path / "reviews.csv")
    (back,) = read(str(tmp_path / "reviews.csv"))
    for read_back, example in zip(back.examples, task.examples, strict=True):
        assert (read_back.input, read_back.attributes) == (example.input, example.attributes)
        assert read_back.options[read_back.label] == example.options[example.label]


@pytest.mark.parametrize(("users", "rows", "unseen"), [(0, 5, None), (3, 5, -1), (-1, 5, 2)])
def test_no_users_are_refused(users: int, rows: int, unseen: int | None) -> None:
    with pytest.raises(ConfigError, match=f"num_users is {users} and unseen {unseen}"):
        generate_reviews(users, rows, 0, unseen=unseen)


@pytest.mark.parametrize(("rows", "unseen"), [(0, None), (3, None), (5, 2)])
def test_fewer_rows_than_users_are_refused(rows: int, unseen: int | None) -> None:
    with pytest.raises(ConfigError, match=f"num_rows is {rows} for {4 + (unseen or 0)} users"):
        generate_reviews(4, rows, 0, unseen=unseen)
