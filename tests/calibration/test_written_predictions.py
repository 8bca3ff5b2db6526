"""What bayes-lora writes is what this package reads."""

import json

import numpy as np
import pytest

from bayes_lora.data import Example, Task
from bayes_lora.errors import ConfigError
from bayes_lora.output import write_predictions
from bayes_lora.predict import Predictions
from calibration import read_predictions


def task(name, n):
    return Task(
        name,
        tuple(Example(input=f"{i}", options=("a", "b"), label=0, where="") for i in range(n)),
    )


def predicted(n):
    entropy = np.full(n, 0.5)
    return Predictions(np.tile([0.8, 0.2], (n, 1)), entropy, entropy, num_draws=3)


def test_the_support_is_read_back(tmp_path):
    path = tmp_path / "predictions.jsonl"
    tasks = [task("p", 2), task("q", 1), task("p", 2)]
    write_predictions(iter(tasks), predicted(5), path, support=[(0, None), (4, 7), (4, 0)])
    rows = read_predictions(path).rows
    assert [(row.task, row.support) for row in rows] == [
        ("p", (0, None)), ("p", (0, None)), ("q", (4, 7)), ("p", (4, 0)), ("p", (4, 0)),
    ]  # fmt: skip
    first = json.loads(path.read_text().splitlines()[0])
    assert "support_seed" not in first


def test_without_support_there_are_no_such_keys(tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions([task("p", 2)], predicted(2), path)
    for line in path.read_text().splitlines():
        assert not {"support_size", "support_seed"} & set(json.loads(line))
    assert read_predictions(path).rows[0].support is None


def test_one_support_a_task(tmp_path):
    with pytest.raises(ConfigError, match="support has 1 pairs for 2 tasks"):
        write_predictions(
            [task("p", 1), task("q", 1)], predicted(2), tmp_path / "x", support=[(4, 0)]
        )
    assert not (tmp_path / "x").exists()
