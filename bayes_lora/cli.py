"""The command line: parses, calls, prints."""

import argparse
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings

from huggingface_hub.utils import logging as hub_logging
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from bayes_lora.arguments import make_parser
from bayes_lora.cli_export import run_export
from bayes_lora.cli_input import (
    cut,
    fit_choices,
    lacking,
    load_adapted,
    read_data,
    warn,
    warnings,
)
from bayes_lora.cli_levels import run_levels
from bayes_lora.cli_meta import run_adapt, run_meta_fit
from bayes_lora.cli_predict import Assigned, Run, load_run
from bayes_lora.cli_ranks import run_ranks
from bayes_lora.data import Kind, TaskSet, check_attributes, inspect
from bayes_lora.demo import run_demo
from bayes_lora.errors import BayesLoraError, DataWarning, FitError, check_seed
from bayes_lora.files import check_file
from bayes_lora.inference import fit
from bayes_lora.inference.fit import check_trainable, label_sets
from bayes_lora.level_draws import Unknown
from bayes_lora.output import write_predictions
from bayes_lora.predict import Array, Predictions, joined
from bayes_lora.run_config import check_free
from bayes_lora.scorers import default_scorer, keep_scorable, make_scorer
from calibration import CalibrationError, fit_recalibration, write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 done, 1 a failure of ours, 2 the user's input."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # it would report every try to reach the hub
    arguments = make_parser().parse_args(argv)
    try:
        COMMANDS[arguments.command](arguments)
    except KeyboardInterrupt:
        return _fail(arguments, _interrupted(arguments), 130)
    except FitError as error:
        return _fail(arguments, str(error), 1)
    except (BayesLoraError, CalibrationError) as error:
        return _fail(arguments, str(error), 2)
    except Exception as error:
        text = f"{type(error).__name__}: {error} (a failure of ours; --debug shows the trace)"
        return _fail(arguments, text, 1)
    return 0


def _interrupted(arguments: argparse.Namespace) -> str:
    kept = getattr(arguments, "resumable", None)
    if kept is None:
        return "interrupted; what was unfinished is not kept"
    return f"interrupted; the same command goes on from {kept}"


def _fail(arguments: argparse.Namespace, message: str, status: int) -> int:
    if arguments.debug:
        traceback.print_exc()
    print(f"bayes-lora: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _fit(arguments: argparse.Namespace) -> None:
    check_free(Path(arguments.out))  # before the work, not after it
    choices = fit_choices(arguments)
    tasks = read_data(arguments, arguments.data, "train", "train")
    dev = _read_dev(arguments, tasks) if arguments.dev else TaskSet(())
    check_trainable(tasks.tasks)
    odd = _odd(arguments, tasks, dev)
    backbone = load_adapted(arguments)
    name = arguments.scorer or default_scorer(backbone, tasks.tasks)
    scorer = make_scorer(name, backbone, tasks.tasks)
    tasks = keep_scorable(tasks, scorer, backbone, strict=arguments.strict)
    dev = keep_scorable(dev, scorer, backbone, strict=arguments.strict) if len(dev) else dev
    print(f"{len(tasks)} task(s), {sum(map(len, tasks))} rows, scorer {name}")
    warn(*warnings(tasks), *warnings(dev), *odd, *cut(scorer, backbone, tasks))
    with catch_warnings(action="ignore", category=DataWarning):  # they are said already
        posterior = fit(
            tasks,
            backbone,
            scorer=name,
            dev=dev,
            progress=True,
            resumable=arguments.resumable,
            **choices,
        )
    posterior.save_pretrained(arguments.out)
    if arguments.resumable is not None:
        shutil.rmtree(arguments.resumable)
    print(f"Posterior written to {arguments.out}")


def _odd(arguments: argparse.Namespace, tasks: TaskSet, dev: TaskSet) -> list[str]:
    """List what is odd about attributes in the data of a fit; refuse what cannot be fitted."""
    columns = arguments.attributes or ()
    lines = [*check_attributes(tasks, columns), *lacking(dev, columns)]
    if arguments.recipe and not arguments.dev:
        lines.append(
            f"the recipe {arguments.recipe} stops early on --dev, and none is given: the fit "
            "runs its full length"
        )
    return lines


def _predict(arguments: argparse.Namespace) -> None:
    check_seed(arguments.seed)
    check_file(Path(arguments.out))
    run = load_run(arguments)
    apply = _recalibration(arguments, run) if arguments.recalibrate else None
    tasks = read_data(arguments, arguments.data, "test", "test", **run.labels)
    tasks = keep_scorable(tasks, run.scorer, run.backbone, strict=arguments.strict)
    parts = run.assign(tasks)
    odd = lacking(tasks, run.attributes)
    warn(*warnings(tasks), *odd, *cut(run.scorer, run.backbone, tasks))
    number = sum(map(len, tasks))
    predictions, counts = _predicted(arguments, parts, number)
    if apply is not None:
        predictions = predictions.recalibrated(apply)
    support = run.support and [run.support] * len(tasks)
    write_predictions(tasks, predictions, arguments.out, support=support, level_counts=counts)
    print(f"Predictions for {number} rows written to {arguments.out}")


def _recalibration(arguments: argparse.Namespace, run: Run) -> Callable[[Array], Array]:
    """Fit the recalibration that is asked for to labelled rows."""
    tasks = read_data(arguments, arguments.dev, "dev", "test", **run.labels)
    tasks = keep_scorable(tasks, run.scorer, run.backbone, strict=arguments.strict)
    warn(*warnings(tasks))
    labels = [label for task in tasks for label in task.labels]
    options = [len(example.options) for task in tasks for example in task.examples]
    predictions, _ = _predicted(arguments, run.assign(tasks), len(labels))
    return fit_recalibration(arguments.recalibrate, predictions.probabilities, labels, options)


def _predicted(
    arguments: argparse.Namespace, parts: Assigned, number: int
) -> tuple[Predictions, list[dict[str, int]]]:
    """Predict part after part; beside it, of a run with attributes, rows' level counts."""
    predicted = []
    counts: list[dict[str, int]] = []
    with tqdm(total=number, desc="predict") as bar:
        for posterior, own in parts:
            examples = [example for task in own for example in task.examples]
            by_level: dict[str, Any] = {}
            if posterior.model.by_level:
                by_level["unknown"] = arguments.unknown or Unknown.PRIOR
                counts += posterior.level_counts(examples)
            predicted.append(
                posterior.predict(
                    examples,
                    draws=arguments.draws if posterior.config.effects else 0,
                    seed=arguments.seed,
                    progress=bar.update,
                    linearised=arguments.linearised,
                    **by_level,
                )
            )
    return joined(predicted), counts


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


def _read_dev(arguments: argparse.Namespace, tasks: TaskSet) -> TaskSet:
    """Read ``--dev``; where training has one label set and no more, its labels must be of it."""
    sets = label_sets(tasks)
    if len(sets) == 1 and all(task.kind is Kind.FIXED_LABELS for task in tasks):
        return read_data(arguments, arguments.dev, "dev", "train", options=sets[0])
    return read_data(arguments, arguments.dev, "dev", "train", label_sets=sets)


def _demo(arguments: argparse.Namespace) -> None:
    for report in run_demo(Path(arguments.out), arguments.seed):
        print(f"Report written to {report}")


COMMANDS = {
    "adapt": run_adapt,
    "demo": _demo,
    "export": run_export,
    "fit": _fit,
    "levels": run_levels,
    "meta-fit": run_meta_fit,
    "predict": _predict,
    "ranks": run_ranks,
    "report": _report,
    "tasks": _tasks,
}


if __name__ == "__main__":
    sys.exit(main())
