"""CLINC150: requests to an assistant, 150 intents of ten domains (Larson et al. 2019, EMNLP)."""

import json
from pathlib import Path

from bayes_lora.data import Example, Task
from bayes_lora.data.records import read_text


def read_domains(folder: Path, *splits: str) -> dict[str, Task]:
    """Read each domain as a task whose options are its 15 intents, with spaces for underscores.

    Requests outside all domains ("oos") are no task's and stay out.

    Args:
        folder: Has `data_full.json` and `domains.json` of github.com/clinc/oos-eval.
        splits: Which rows: "train", "val", "test".

    Raises:
        InputDataError: A file is not there or not UTF-8.
    """
    domains = json.loads(read_text(folder / "domains.json"))
    rows = json.loads(read_text(folder / "data_full.json"))
    numbered = [
        (text, intent, f"data_full.json, {split}, row {n}")
        for split in splits
        for n, (text, intent) in enumerate(rows[split], start=1)
    ]
    return {
        domain: _task(domain, intents, [row for row in numbered if row[1] in intents])
        for domain, intents in domains.items()
    }


def _task(domain: str, intents: list[str], rows: list[tuple[str, str, str]]) -> Task:
    options = tuple(intent.replace("_", " ") for intent in intents)
    examples = (
        Example(input=text, options=options, label=intents.index(intent), where=where)
        for text, intent, where in rows
    )
    return Task(domain, tuple(examples))
