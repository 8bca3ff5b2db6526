"""The command that says who differs: levels."""

import argparse
from pathlib import Path
from typing import Any

from bayes_lora.cli_input import DTYPES, cut, read_data, warn, warnings
from bayes_lora.data import TaskSet
from bayes_lora.errors import check_seed
from bayes_lora.files import check_file
from bayes_lora.heterogeneity import check_levels, describe_levels
from bayes_lora.inference.levels import MEASURED
from bayes_lora.level_page import DATA, PAGE, write_levels
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import CONFIG_FILE, read_config
from bayes_lora.scorers import keep_scorable


def run_levels(arguments: argparse.Namespace) -> None:
    """Measure a run's levels on some rows, and write the report to a folder."""
    out = Path(arguments.out)
    check_seed(arguments.seed)
    for name in (DATA, PAGE):
        check_file(out / name)  # before the work, not after it
    posterior = _load(arguments)
    examples = [example for task in _read(arguments, posterior) for example in task.examples]
    reports = describe_levels(posterior, examples, seed=arguments.seed)
    rows = min(len(examples), MEASURED)
    name = Path(arguments.run_folder).name or arguments.run_folder
    write_levels(reports, out, run=name, rows=rows, seed=arguments.seed)
    print(f"Report written to {out / PAGE}")


def _load(arguments: argparse.Namespace) -> Posterior:
    folder = Path(arguments.run_folder)
    config, _ = read_config(folder / CONFIG_FILE)
    check_levels(config)  # before the backbone is loaded
    dtype = DTYPES[arguments.dtype] if arguments.dtype else None
    return Posterior.from_pretrained(folder, backbone=arguments.model, dtype=dtype)


def _read(arguments: argparse.Namespace, posterior: Posterior) -> TaskSet:
    labels: dict[str, Any] = {"label_sets": posterior.config.label_sets}
    if not posterior.reads_options:
        labels = {"options": posterior.options}
    scorer, backbone = posterior.config.scorer, posterior.model.backbone
    tasks = read_data(arguments, arguments.data, "train", "train", **labels)
    tasks = keep_scorable(tasks, scorer, backbone, strict=arguments.strict)
    warn(*warnings(tasks), *cut(scorer, backbone, tasks))
    return tasks
