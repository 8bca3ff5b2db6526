"""predictions.jsonl: what the posterior says about each row, for people and for the report."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bayes_lora.data import Example, Task
from bayes_lora.files import atomic_text
from bayes_lora.predict import Predictions


def write_predictions(tasks: Iterable[Task], predictions: Predictions, path: str | Path) -> None:
    """Write one JSON object a row, atomically, task by task.

    Keys: ``task``, ``input``, ``options``, ``probabilities`` (mean over draws), ``label`` (the
    option's text, or null), ``num_draws`` (0: posterior mean, or no posterior),
    ``predictive_entropy``, ``expected_entropy`` and ``mutual_information`` (nats), ``attributes``.

    Args:
        tasks: Their examples, task after task, are the rows of ``predictions``.
        predictions: What was predicted.
        path: The file.

    Raises:
        ConfigError: The file cannot be written.
    """
    examples = [(task.name, example) for task in tasks for example in task.examples]
    information = predictions.mutual_information  # of all rows at once, not anew for each
    with atomic_text(path) as file:
        for row, (name, example) in enumerate(examples):
            described = _describe(example, predictions, row, float(information[row]))
            file.write(json.dumps({"task": name, **described}, ensure_ascii=False) + "\n")


def _describe(
    example: Example, predictions: Predictions, row: int, mutual_information: float
) -> dict[str, Any]:
    return {
        "input": example.input,
        "options": list(example.options),
        "probabilities": predictions.probabilities[row, : len(example.options)].tolist(),
        "label": None if example.label is None else example.options[example.label],
        "num_draws": predictions.num_draws,
        "predictive_entropy": float(predictions.predictive_entropy[row]),
        "expected_entropy": float(predictions.expected_entropy[row]),
        "mutual_information": mutual_information,
        "attributes": dict(example.attributes),
    }
