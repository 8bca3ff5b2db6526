"""The command line: parses, calls, prints."""

import argparse
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from bayes_lora.adapters import ADAPTERS, Adapter
from bayes_lora.arguments import make_parser
from bayes_lora.backbone import MINILM, Backbone, load_backbone
from bayes_lora.data import Kind, TaskSet, inspect, read
from bayes_lora.demo import run_demo
from bayes_lora.errors import BayesLoraError, ConfigError, FitError, check_seed
from bayes_lora.files import check_file
from bayes_lora.inference import FitSettings, fit
from bayes_lora.inference.fit import DEFAULTS, check_trainable, label_sets
from bayes_lora.output import write_predictions
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import CONFIG_FILE, check_free
from bayes_lora.scorers import Scorer, default_scorer, keep_scorable, make_scorer
from calibration import CalibrationError, write_report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
WARNINGS_SHOWN = 10
FIT_FLAGS = (
    "draws",
    "epochs",
    "max_steps",
    "batch_size",
    "accumulate",
    "learning_rate",
    "checkpointing",
    "seed",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 done, 1 a failure of ours, 2 the user's input."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # it would report every try to reach the hub
    arguments = make_parser().parse_args(argv)
    try:
        COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        return _fail(arguments, "interrupted; what was unfinished is not kept", 130)
    except FitError as error:
        return _fail(arguments, str(error), 1)
    except (BayesLoraError, CalibrationError) as error:
        return _fail(arguments, str(error), 2)
    except Exception as error:
        text = f"{type(error).__name__}: {error} (a failure of ours; --debug shows the trace)"
        return _fail(arguments, text, 1)
    return 0


def _fail(arguments: argparse.Namespace, message: str, status: int) -> int:
    if arguments.debug:
        traceback.print_exc()
    print(f"bayes-lora: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _fit(arguments: argparse.Namespace) -> None:
    check_free(Path(arguments.out))  # before the work, not after it
    settings = _given(FitSettings, arguments, FIT_FLAGS)
    defaults = partial(replace, DEFAULTS[arguments.guide])
    model_settings = _given(defaults, arguments, ("kl_weight",))
    tasks = _read(arguments, arguments.data, "train")
    dev = _read_dev(arguments, tasks) if arguments.dev else TaskSet(())
    check_trainable(tasks.tasks)
    backbone = _load(arguments.model, arguments)
    name = arguments.scorer or default_scorer(backbone, tasks.tasks)
    scorer = make_scorer(name, backbone, tasks.tasks)
    tasks = keep_scorable(tasks, scorer, backbone, strict=arguments.strict)
    dev = keep_scorable(dev, scorer, backbone, strict=arguments.strict) if len(dev) else dev
    print(f"{len(tasks)} task(s), {sum(map(len, tasks))} rows, scorer {name}")
    _warn(*_warnings(tasks), *_warnings(dev), *_cut(scorer, backbone, tasks))
    make_adapter: Callable[..., Adapter] = ADAPTERS[arguments.adapter]
    posterior = fit(
        tasks,
        backbone,
        scorer=name,
        adapter=make_adapter(rank=arguments.rank),
        guide=arguments.guide,
        model_settings=model_settings,
        settings=settings,
        dev=dev,
        progress=True,
    )
    posterior.save_pretrained(arguments.out)
    print(f"Posterior written to {arguments.out}")


def _predict(arguments: argparse.Namespace) -> None:
    check_seed(arguments.seed)
    check_file(Path(arguments.out))
    if (Path(arguments.run_folder) / CONFIG_FILE).exists():
        posterior = _load_run(arguments)
    else:
        posterior = _load_pretrained(arguments)
    if posterior.reads_options:
        labels: dict[str, Any] = {"label_sets": posterior.config.label_sets}
    else:
        labels = {"options": posterior.options}
    tasks = _read(arguments, arguments.data, "test", **labels)
    scorer, backbone = posterior.config.scorer, posterior.model.backbone
    tasks = keep_scorable(tasks, scorer, backbone, strict=arguments.strict)
    _warn(*_warnings(tasks), *_cut(scorer, backbone, tasks))
    examples = [example for task in tasks for example in task.examples]
    draws = arguments.draws if posterior.config.effects else 0
    with tqdm(total=len(examples), desc="predict") as bar:
        predictions = posterior.predict(
            examples, draws=draws, seed=arguments.seed, progress=bar.update
        )
    write_predictions(tasks, predictions, arguments.out)
    print(f"Predictions for {len(examples)} rows written to {arguments.out}")


def _tasks(arguments: argparse.Namespace) -> None:
    print(
        inspect(
            arguments.data,
            partition=arguments.partition,
            part=arguments.part,
            strict=arguments.strict,
        )
    )


def _report(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    write_report([Path(file) for file in arguments.predictions], out)
    print(f"Report written to {out / 'report.html'}")


def _read(
    arguments: argparse.Namespace, specs: Sequence[str], split: str, **labels: Any
) -> TaskSet:
    default_part = ("test" if split == "test" else "train") if arguments.partition else None
    return read(
        specs,
        split=split,
        partition=arguments.partition,
        part=arguments.part or default_part,
        strict=arguments.strict,
        **labels,
    )


def _read_dev(arguments: argparse.Namespace, tasks: TaskSet) -> TaskSet:
    """Read ``--dev``; where training has one label set and no more, its labels must be of it."""
    sets = label_sets(tasks)
    if len(sets) == 1 and all(task.kind is Kind.FIXED_LABELS for task in tasks):
        return _read(arguments, arguments.dev, "dev", options=sets[0])
    return _read(arguments, arguments.dev, "dev", label_sets=sets)


def _load(name: str, arguments: argparse.Namespace) -> Backbone:
    dtype = DTYPES[arguments.dtype or "float32"]
    targets = _targets(getattr(arguments, "targets", None))
    return load_backbone(name, targets=targets, dtype=dtype, max_length=arguments.max_length or 256)


def _load_run(arguments: argparse.Namespace) -> Posterior:
    for flag, value in (("scorer", arguments.scorer), ("max-length", arguments.max_length)):
        if value is not None:
            raise ConfigError(f"--{flag} is for a backbone: a run keeps the one of its fit.")
    dtype = DTYPES[arguments.dtype] if arguments.dtype else None
    return Posterior.from_pretrained(arguments.run_folder, backbone=arguments.model, dtype=dtype)


def _load_pretrained(arguments: argparse.Namespace) -> Posterior:
    name = arguments.run_folder
    if arguments.model:
        raise ConfigError(f"--model is for a run, and there is no {CONFIG_FILE} in {name!r}.")
    if not Path(name).exists() and name != MINILM:
        print(f"{name!r} is not here: looking for a backbone of that name on the hub")
    try:
        backbone = _load(name, arguments)
    except ConfigError as error:
        raise ConfigError(
            f"{name!r} is neither a run (there is no {CONFIG_FILE} in it) nor a backbone. {error}"
        ) from error
    scorer = arguments.scorer or default_scorer(backbone, (), zero_shot=True)
    print(f"{name} as it is, nothing fitted, scorer {scorer}")
    return Posterior.pretrained(backbone, scorer)


def _warnings(tasks: TaskSet) -> list[str]:
    """List what a reader should know of the data, at most ``WARNINGS_SHOWN`` lines of it."""
    lines = [*tasks.warnings, *(f"{task.name}: {w}" for task in tasks for w in task.warnings)]
    more = len(lines) - WARNINGS_SHOWN
    tail = [f"and {more} more; bayes-lora tasks lists them"] if more > 0 else []
    return lines[:WARNINGS_SHOWN] + tail


def _cut(scorer: Scorer, backbone: Backbone, tasks: TaskSet) -> list[str]:
    lines = []
    for task in tasks:
        cut = sum(row.cut for row in scorer.rows(backbone, task.examples))
        if cut:
            length = backbone.max_length
            lines.append(f"{task.name}: {cut} of {len(task)} texts are cut to {length} tokens")
    return lines


def _warn(*lines: str) -> None:
    for line in lines:
        print(f"bayes-lora: warning: {' '.join(line.split())}", file=sys.stderr)


def _demo(arguments: argparse.Namespace) -> None:
    print(f"Report written to {run_demo(Path(arguments.out), arguments.seed)}")


def _given(make: Any, arguments: argparse.Namespace, names: Sequence[str]) -> Any:
    """Call ``make`` with the flags the user gave, so that defaults stand in one place."""
    values = {name: getattr(arguments, name) for name in names}
    return make(**{name: value for name, value in values.items() if value is not None})


def _targets(text: str | None) -> str | list[str] | None:
    """Read ``--targets``: names with commas, or one regular expression."""
    if text is None or not re.fullmatch(r"[\w.,\s]+", text):
        return text
    return [name.strip() for name in text.split(",") if name.strip()]


COMMANDS = {
    "demo": _demo,
    "fit": _fit,
    "predict": _predict,
    "report": _report,
    "tasks": _tasks,
}


if __name__ == "__main__":
    sys.exit(main())
