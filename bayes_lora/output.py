"""predictions.jsonl: what the posterior says about each row, for people and for the report."""

import json
from pathlib import Path
from typing import Any

from bayes_lora.data import Example, Task
from bayes_lora.files import atomic_text
from bayes_lora.predict import Predictions


def write_predictions(task: Task, predictions: Predictions, path: str | Path) -> None:
    """Write one JSON object a row, atomically, in the task's order.

    Keys: ``input``, ``options``, ``probabilities`` (mean over draws), ``label`` (the option's text,
    or null), ``num_draws`` (0: posterior mean), ``predictive_entropy``, ``expected_entropy`` and
    ``mutual_information`` (nats), ``attributes``.

    Raises:
        ConfigError: The file cannot be written.
    """
    information = predictions.mutual_information  # of all rows at once, not anew for each
    with atomic_text(path) as file:
        for row, example in enumerate(task.examples):
            described = _describe(example, predictions, row, float(information[row]))
            file.write(json.dumps(described, ensure_ascii=False) + "\n")


def _describe(
    example: Example, predictions: Predictions, row: int, mutual_information: float
) -> dict[str, Any]:
    return {
        "input": example.input,
        "options": list(example.options),
        "probabilities": predictions.probabilities[row].tolist(),
        "label": None if example.label is None else example.options[example.label],
        "num_draws": predictions.num_draws,
        "predictive_entropy": float(predictions.predictive_entropy[row]),
        "expected_entropy": float(predictions.expected_entropy[row]),
        "mutual_information": mutual_information,
        "attributes": dict(example.attributes),
    }
