"""The command line: parses, calls, prints."""

import argparse
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from bayes_lora.adapters import ADAPTERS, Adapter, LoRA
from bayes_lora.backbone import MINILM, Backbone, load_backbone
from bayes_lora.data import Task, read
from bayes_lora.demo import run_demo
from bayes_lora.errors import BayesLoraError, FitError, check_seed
from bayes_lora.files import check_file
from bayes_lora.guides import GUIDES
from bayes_lora.inference import FitSettings, fit
from bayes_lora.inference.fit import DEFAULTS
from bayes_lora.output import write_predictions
from bayes_lora.posterior import Posterior, check_free
from calibration import CalibrationError, write_report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
SPEC_HELP = "file.csv or file.jsonl with columns text,label or input,output,options"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0 done, 1 a failure of ours, 2 the user's input."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
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
    task = read(arguments.data)
    dev = read(arguments.dev, options=task.options) if arguments.dev else None
    settings = _given(FitSettings, arguments, FIT_FLAGS)
    defaults = partial(replace, DEFAULTS[arguments.guide])
    model_settings = _given(defaults, arguments, ("kl_weight",))
    task.check_trainable()
    backbone = load_backbone(
        arguments.model,
        targets=_targets(arguments.targets),
        dtype=DTYPES[arguments.dtype],
        max_length=arguments.max_length,
    )
    _say_what_is_cut(backbone, task)
    make_adapter: Callable[..., Adapter] = ADAPTERS[arguments.adapter]
    posterior = fit(
        task,
        backbone,
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
    dtype = DTYPES[arguments.dtype] if arguments.dtype else None
    posterior = Posterior.from_pretrained(
        arguments.run_folder, backbone=arguments.model, dtype=dtype
    )
    task = read(arguments.data, options=posterior.options)
    _say_what_is_cut(posterior.model.backbone, task)
    texts = [example.input for example in task.examples]
    with tqdm(total=len(texts), desc="predict") as bar:
        predictions = posterior.predict(
            texts, draws=arguments.draws, seed=arguments.seed, progress=bar.update
        )
    write_predictions(task, predictions, arguments.out)
    print(f"Predictions for {len(texts)} rows written to {arguments.out}")


def _report(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    write_report([Path(file) for file in arguments.predictions], out)
    print(f"Report written to {out / 'report.html'}")


def _say_what_is_cut(backbone: Backbone, task: Task) -> None:
    cut = backbone.count_cut([example.input for example in task.examples])
    if cut:
        print(
            f"{task.name}: {cut} of {len(task)} texts are cut to {backbone.max_length} tokens",
            file=sys.stderr,
        )


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


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage before it."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bayes-lora", description=__doc__)
    parser.description = "Bayesian low-rank adapters: fit a posterior, predict, report."
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the trace of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, help_text, add in (
        ("demo", "fit and compare two models on a task the project generates", _add_demo),
        ("fit", "fit a posterior over adapter weights to labelled text", _add_fit),
        ("predict", "predict with a fitted posterior", _add_predict),
        ("report", "measure predictions and write a report", _add_report),
    ):
        add(commands.add_parser(name, help=help_text, parents=[common], allow_abbrev=False))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_demo)
    parser.add_argument("--out", default="demo-report", help="new folder (default: demo-report)")
    parser.add_argument("--seed", type=int, default=0, help="of the data and the fits")


def _add_fit(parser: argparse.ArgumentParser) -> None:
    defaults = FitSettings()
    parser.set_defaults(run=_fit)
    parser.add_argument("--data", required=True, metavar="SPEC", help=SPEC_HELP)
    parser.add_argument("--dev", metavar="SPEC", help="labelled rows to stop early on (by NLL)")
    parser.add_argument("--out", required=True, metavar="RUN", help="new folder for the posterior")
    parser.add_argument("--model", default=MINILM, help="minilm, a folder or a hub name")
    parser.add_argument("--adapter", default="lora", choices=sorted(ADAPTERS))
    parser.add_argument("--rank", type=int, default=LoRA().rank, help="rank of the adapter")
    parser.add_argument("--targets", help="layers to adapt: names with commas, or a regex")
    parser.add_argument("--guide", default="mean-field", choices=sorted(GUIDES))
    parser.add_argument("--max-length", type=_positive, default=256, help="tokens (default 256)")
    parser.add_argument("--kl-weight", type=float, help="weight of the prior; not 1: tempering")
    parser.add_argument("--draws", type=int, help=f"draws in a step (default {defaults.draws})")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, help="passes (default 20, at least 150 steps)")
    length.add_argument("--max-steps", type=int, help="optimizer steps, instead of --epochs")
    parser.add_argument("--batch-size", type=int, help=f"rows (default {defaults.batch_size})")
    parser.add_argument("--accumulate", type=int, help="batches in one optimizer step")
    parser.add_argument("--learning-rate", type=float, help=f"default {defaults.learning_rate}")
    parser.add_argument(
        "--checkpointing", action="store_true", default=None, help="less memory, more time"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=sorted(DTYPES), help="of the backbone"
    )
    parser.add_argument("--seed", type=int, help="of starts, batches and draws")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_predict)
    parser.add_argument("run_folder", metavar="RUN", help="what fit wrote")
    parser.add_argument("--data", required=True, metavar="SPEC", help=SPEC_HELP)
    parser.add_argument("--out", required=True, metavar="FILE", help="predictions.jsonl")
    parser.add_argument("--draws", type=int, default=10, help="0: the posterior mean")
    parser.add_argument("--model", help="where the backbone lies now, if it moved")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), help="of the backbone (default: the fit's)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_report)
    parser.add_argument("predictions", nargs="+", metavar="predictions.jsonl")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report")


if __name__ == "__main__":
    sys.exit(main())
