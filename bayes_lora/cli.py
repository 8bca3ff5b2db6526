"""The command line: parses, calls, prints."""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from huggingface_hub.utils import logging as hub_logging
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from bayes_lora.adapters import ADAPTERS, Adapter
from bayes_lora.arguments import make_parser
from bayes_lora.cli_input import cut, given, load_named, read_data, warn, warnings
from bayes_lora.cli_meta import run_adapt, run_meta_fit
from bayes_lora.cli_predict import load_run
from bayes_lora.data import Kind, TaskSet, inspect
from bayes_lora.demo import run_demo
from bayes_lora.errors import BayesLoraError, FitError, check_seed
from bayes_lora.files import check_file
from bayes_lora.inference import FitSettings, fit
from bayes_lora.inference.fit import DEFAULTS, check_trainable, label_sets
from bayes_lora.output import write_predictions
from bayes_lora.predict import joined
from bayes_lora.run_config import check_free
from bayes_lora.scorers import default_scorer, keep_scorable, make_scorer
from calibration import CalibrationError, write_report

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
    settings = given(FitSettings, arguments, FIT_FLAGS)
    defaults = partial(replace, DEFAULTS[arguments.guide])
    model_settings = given(defaults, arguments, ("kl_weight",))
    tasks = read_data(arguments, arguments.data, "train", "train")
    dev = _read_dev(arguments, tasks) if arguments.dev else TaskSet(())
    check_trainable(tasks.tasks)
    backbone = load_named(arguments.model, arguments)
    name = arguments.scorer or default_scorer(backbone, tasks.tasks)
    scorer = make_scorer(name, backbone, tasks.tasks)
    tasks = keep_scorable(tasks, scorer, backbone, strict=arguments.strict)
    dev = keep_scorable(dev, scorer, backbone, strict=arguments.strict) if len(dev) else dev
    print(f"{len(tasks)} task(s), {sum(map(len, tasks))} rows, scorer {name}")
    warn(*warnings(tasks), *warnings(dev), *cut(scorer, backbone, tasks))
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
    run = load_run(arguments)
    tasks = read_data(arguments, arguments.data, "test", "test", **run.labels)
    tasks = keep_scorable(tasks, run.scorer, run.backbone, strict=arguments.strict)
    parts = run.assign(tasks)
    warn(*warnings(tasks), *cut(run.scorer, run.backbone, tasks))
    number = sum(map(len, tasks))
    predicted = []
    with tqdm(total=number, desc="predict") as bar:
        for posterior, own in parts:
            predicted.append(
                posterior.predict(
                    [example for task in own for example in task.examples],
                    draws=arguments.draws if posterior.config.effects else 0,
                    seed=arguments.seed,
                    progress=bar.update,
                )
            )
    support = run.support and [run.support] * len(tasks)
    write_predictions(tasks, joined(predicted), arguments.out, support=support)
    print(f"Predictions for {number} rows written to {arguments.out}")


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
    "fit": _fit,
    "meta-fit": run_meta_fit,
    "predict": _predict,
    "report": _report,
    "tasks": _tasks,
}


if __name__ == "__main__":
    sys.exit(main())
