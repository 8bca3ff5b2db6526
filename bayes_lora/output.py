"""predictions.jsonl: what the posterior says about each row, for people and for the report."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayes_lora.data import Example, Task
from bayes_lora.errors import ConfigError
from bayes_lora.files import atomic_text
from bayes_lora.predict import Predictions

Support = tuple[int, int | None]


def write_predictions(
    tasks: Iterable[Task],
    predictions: Predictions,
    path: str | Path,
    *,
    support: Sequence[Support] | None = None,
    level_counts: Sequence[Mapping[str, int]] = (),
) -> None:
    """Write one JSON object a row, atomically, task by task.

    Keys: ``task``, ``input``, ``options``, ``probabilities`` (mean over draws), ``label`` (the
    option's text, or null), ``num_draws`` (0: posterior mean, or no posterior),
    ``predictive_entropy``, ``expected_entropy`` and ``mutual_information`` (nats), ``attributes``.
    With ``support`` also ``support_size`` and, if there is one, ``support_seed``; with
    ``level_counts`` also these.

    Args:
        tasks: Their examples, task after task, are the rows of ``predictions``.
        predictions: What was predicted.
        path: The file.
        support: For few-shot predictions, one pair a task: how many labelled examples its
            posterior was adapted on (in all or a class, but counted alike for every task), and
            the seed that drew them, or None. A task may come several times, under different pairs.
        level_counts: Of a run with attributes, one mapping a row: by attribute, how many training
            rows the row's level had.

    Raises:
        ConfigError: The file cannot be written, or there is not one ``support`` a task.
    """
    tasks = list(tasks)
    pairs = [None] * len(tasks) if support is None else support
    if len(pairs) != len(tasks):
        raise ConfigError(f"support has {len(pairs)} pairs for {len(tasks)} tasks; give one each.")
    examples = [
        (_name(task, pair), example)
        for task, pair in zip(tasks, pairs, strict=True)
        for example in task.examples
    ]
    information = predictions.mutual_information  # of all rows at once, not anew for each
    with atomic_text(path) as file:
        for row, (name, example) in enumerate(examples):
            described = _describe(example, predictions, row, float(information[row]))
            if level_counts:
                described["level_counts"] = dict(level_counts[row])
            file.write(json.dumps({**name, **described}, ensure_ascii=False) + "\n")


def _name(task: Task, support: Support | None) -> dict[str, Any]:
    if support is None:
        return {"task": task.name}
    size, seed = support
    described = {"task": task.name, "support_size": size}
    return described if seed is None else {**described, "support_seed": seed}


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
