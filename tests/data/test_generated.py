import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from bayes_lora.data import (
    generate,
    generate_reviews,
    generate_tasks,
    generate_with_probabilities,
    read,
    write_csv,
)
from bayes_lora.errors import ConfigError


def test_the_same_seed_makes_the_same_task_and_another_seed_another() -> None:
    assert generate(50, 3) == generate(50, 3)
    assert generate(50, 3) == generate_with_probabilities(50, 3)[0]
    assert generate(50, 3) != generate(50, -3)


def test_a_longer_task_begins_like_a_shorter_one() -> None:
    assert generate(50, 3).examples[:20] == generate(20, 3).examples


def test_the_hash_seed_does_not_matter(printed_elsewhere: Callable[[str], str]) -> None:
    made = "generate(30, 3), generate_reviews(5, 30, 3)"
    script = f"from bayes_lora.data import generate, generate_reviews; print(ascii([{made}]))"
    assert printed_elsewhere(script) == ascii([generate(30, 3), generate_reviews(5, 30, 3)])


def test_train_and_test_share_few_sentences_and_repeat_few() -> None:
    train = {example.input for example in generate(200, 0).examples}
    test = [example.input for example in generate(1000, 1).examples]
    assert len(train) >= 195
    assert len(set(test)) >= 980
    assert sum(text in train for text in test) <= 15


def test_messages_are_finished_and_rich_in_words() -> None:
    texts = [example.input for example in generate(1000, 0).examples]
    assert not [text for text in texts if set(text) & set("[]{}|") or "  " in text]
    assert all(text == text.strip() and len(text) > 15 for text in texts)
    assert len({word.strip(".,!?:").lower() for text in texts for word in text.split()}) > 700


def test_every_label_is_common() -> None:
    task = generate(1000, 0)
    assert len(set(task.labels)) == len(task.options)
    counts = Counter(task.options[label] for label in task.labels)
    assert set(counts) == {"account", "billing", "delivery", "fault"}
    assert min(counts.values()) > 180


def test_a_known_share_is_ambiguous_and_labels_follow_the_distribution() -> None:
    task, probabilities = generate_with_probabilities(20_000, 0)
    assert all(math.isclose(sum(chances), 1) for chances in probabilities)
    certain = [max(chances) == 1 for chances in probabilities]
    assert 0.20 < 1 - sum(certain) / len(certain) < 0.24
    drawn_from = list(zip(probabilities, task.labels, strict=True))
    nll = -sum(math.log(chances[label]) for chances, label in drawn_from) / 20_000
    entropy = -sum(p * math.log(p) for chances in probabilities for p in chances if p) / 20_000
    assert nll == pytest.approx(entropy, abs=0.006)
    assert entropy > 0.12
    # Of all the chances near a half, about a half come true, and so on.
    for low, high in ((0.15, 0.35), (0.35, 0.55), (0.55, 0.75), (0.75, 0.95)):
        drawn = [
            (p, option == label)
            for chances, label in drawn_from
            for option, p in enumerate(chances)
            if low < p < high
        ]
        expected = sum(p for p, _ in drawn) / len(drawn)
        assert sum(hit for _, hit in drawn) / len(drawn) == pytest.approx(expected, abs=0.05)


def test_the_files_of_the_demo_read_back(tmp_path: Path) -> None:
    task = generate(200, 0)
    write_csv(task, tmp_path / "train.csv")
    (back,) = read(str(tmp_path / "train.csv"))
    assert (back.options, back.labels) == (task.options, task.labels)
    assert [e.input for e in back.examples] == [e.input for e in task.examples]


@pytest.mark.parametrize("number", [0, -1])
def test_no_examples_are_refused(number: int) -> None:
    for make in (generate, generate_tasks):
        with pytest.raises(ConfigError, match=f"num_examples is {number}"):
            make(number, 0)


def test_inboxes_depend_on_the_seed_alone_and_have_labels_of_their_own() -> None:
    tasks = generate_tasks(30, 3)
    assert tasks == generate_tasks(30, 3)
    assert len({task.name for task in tasks}) == len(tasks) == 12
    labels = [option for task in tasks for option in task.options]
    assert len(set(labels)) == len(labels), "two inboxes share a label"
    for task, other, longer in zip(
        tasks, generate_tasks(30, 4), generate_tasks(40, 3), strict=True
    ):
        assert task.examples != other.examples
        assert task.examples == longer.examples[:30]


def test_inboxes_are_finished_balanced_and_seldom_repeat() -> None:
    for task in generate_tasks(300, 0):
        texts = [example.input for example in task.examples]
        assert not [text for text in texts if set(text) & set("[]{}|") or "  " in text]
        assert not [text for text in texts if "shop" in text.lower().split()]
        counts = Counter(task.labels)
        assert len(counts) == len(task.options)
        assert min(counts.values()) > 70
        assert len(set(texts)) > 240
