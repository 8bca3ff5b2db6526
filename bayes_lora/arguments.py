"""The command line's arguments."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from bayes_lora.adapters import ADAPTERS, LoRA
from bayes_lora.backbone import MINILM
from bayes_lora.data.wording import meant
from bayes_lora.fusion import Fusion
from bayes_lora.guides import GUIDES
from bayes_lora.inference import FitSettings
from bayes_lora.inference.attributes import RECIPES
from bayes_lora.level_draws import Unknown
from bayes_lora.linearised import DRAWS as LOGITS
from bayes_lora.meta import EpisodeSettings, MetaSettings
from bayes_lora.meta.settings import AMORTIZATIONS, METHODS
from bayes_lora.meta.theta import THETA_GUIDES
from bayes_lora.meta.tuning import STEPS
from bayes_lora.posterior import DRAWS
from bayes_lora.scorers import SCORERS
from calibration.recalibration import RECALIBRATIONS

DTYPES = ("bfloat16", "float32")
CARRIED = [name for name in SCORERS if name != "class-head"]  # to labels never seen
SPEC_HELP = (
    "file.csv | file.jsonl | crossfit:DIR/TASK[@SEED][#SPLIT] | crossfit:DIR (all its tasks) | "
    "unifiedqa:DIR[#SPLIT] | hub:NAME[/CONFIG][#SPLIT]"
)
OWN_ADAPTERS = sorted(name for name in ADAPTERS if name != "peft")
RANK_HELP = f"rank of the adapter (LoRA: {LoRA().rank})"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _columns(text: str) -> tuple[str, ...]:
    """Read names with commas between."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"names no column: {text!r}")
    return names


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage before it."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse a flag that a command does not have here, where those are known that it has."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            guess = meant(flag, list(self._option_string_actions))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{guess}")
        return found, unknown


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; the command's name will be the parsed arguments' ``command``."""
    parser = _Parser(prog="bayes-lora")
    parser.description = "Bayesian low-rank adapters: fit a posterior, predict, report."
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the trace of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, help_text, add in (
        ("adapt", "adapt a meta run to new tasks, from a few examples of each", _add_adapt),
        ("demo", "fit and compare models on tasks the project generates", _add_demo),
        ("export", "write a run as a PEFT checkpoint or a merged model", _add_export),
        ("fit", "fit a posterior over adapter weights to labelled text", _add_fit),
        ("levels", "say which levels of a run's attributes differ, and how", _add_levels),
        ("meta-fit", "learn from many tasks what they share", _add_meta_fit),
        ("predict", "predict with a fitted posterior, or a backbone as it is", _add_predict),
        ("ranks", "say how much of a LoRA's rank is used, and prune to it", _add_ranks),
        ("report", "measure predictions and write a report", _add_report),
        ("tasks", "say what is in a SPEC, and what is odd about it", _add_tasks),
    ):
        add(commands.add_parser(name, help=help_text, parents=[common], allow_abbrev=False))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo-report", help="new folder (default: demo-report)")
    parser.add_argument("--seed", type=int, default=0, help="of the data and the fits")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a posterior's folder")
    parser.add_argument("--model", help="the backbone, if it is not where it was")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--peft", metavar="DIR", help="new folder for a PEFT checkpoint")
    kind.add_argument("--merged", metavar="DIR", help="new folder for a model with merged weights")
    parser.add_argument("--draw", type=int, help="number of a draw (default: the posterior mean)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")


def _add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a posterior's folder")
    parser.add_argument("--model", help="the backbone, if it is not where it was")
    parser.add_argument("--prune", metavar="RUN2", help="new folder for the run of that rank")


def _add_fit(parser: argparse.ArgumentParser) -> None:
    defaults = FitSettings()
    _add_data(parser)
    parser.add_argument(
        "--dev", nargs="+", metavar="SPEC", help="labelled rows to stop early on (by NLL)"
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="new folder for the posterior")
    parser.add_argument(
        "--resumable",
        type=Path,
        metavar="DIR",
        help="keep the state of the fit here: the same command goes on from it (gone at the end)",
    )
    parser.add_argument("--model", help="minilm (the default), a folder or a hub name")
    parser.add_argument(
        "--from-peft", metavar="DIR", help="a PEFT checkpoint to start from, on its base model"
    )
    parser.add_argument(
        "--scorer",
        choices=list(SCORERS),
        help="default: class-head where all tasks share one label set, else similarity for an "
        "encoder, likelihood for a language model",
    )
    parser.add_argument("--adapter", choices=OWN_ADAPTERS, help="default lora")
    parser.add_argument("--rank", type=int, help=RANK_HELP)
    parser.add_argument("--targets", help="layers to adapt: names with commas, or a regex")
    parser.add_argument("--guide", choices=sorted(GUIDES), help="default mean-field")
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
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the backbone")
    parser.add_argument("--seed", type=int, help="of starts, batches and draws")
    _add_attributes(parser)


def _add_attributes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("attributes (docs/attributes.md)")
    group.add_argument(
        "--attributes",
        type=_columns,
        metavar="COLUMN,COLUMN",
        help="columns of the data whose levels (each user, each shop) get weights of their own",
    )
    group.add_argument(
        "--attribute-adapter", choices=OWN_ADAPTERS, help="of the levels (default krona)"
    )
    group.add_argument(
        "--fusion",
        choices=[fusion.value for fusion in Fusion],
        help="how the population and the levels become one prediction (default sum)",
    )
    group.add_argument(
        "--reconstruction",
        type=float,
        metavar="WEIGHT",
        help="also learn the texts' own tokens, with this weight (default 0: not at all)",
    )
    group.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="m2a: all settings as published; a flag given beside it wins",
    )


def _add_levels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="what fit --attributes wrote")
    _add_data(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report")
    parser.add_argument("--model", help="where the run's backbone lies now, if it moved")
    parser.add_argument("--dtype", choices=DTYPES, help="of the backbone (default: the fit's)")
    parser.add_argument("--seed", type=int, default=0, help="of the rows to measure on")


def _add_meta_fit(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument(
        "--dev", nargs="+", metavar="SPEC", help="meta-dev tasks (default: a fifth of the tasks)"
    )
    parser.add_argument("--out", required=True, metavar="RUN", help="new folder for the meta run")
    parser.add_argument("--model", default=MINILM, help="minilm, a folder or a hub name")
    parser.add_argument(
        "--scorer",
        choices=CARRIED,
        help="default: discriminant for an encoder, or similarity where meta-dev tasks have it "
        "surely better; likelihood for a language model",
    )
    parser.add_argument("--adapter", default="lora", choices=OWN_ADAPTERS)
    parser.add_argument("--rank", type=int, help=RANK_HELP)
    parser.add_argument("--targets", help="layers to adapt: names with commas, or a regex")
    parser.add_argument("--max-length", type=_positive, default=256, help="tokens (default 256)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the backbone")
    _add_meta_settings(parser)


def _add_meta_settings(parser: argparse.ArgumentParser) -> None:
    defaults, episodes = MetaSettings(), EpisodeSettings()
    parser.add_argument("--method", choices=METHODS, help=f"default {defaults.method}")
    parser.add_argument(
        "--amortization", choices=AMORTIZATIONS, help=f"default {defaults.amortization}"
    )
    parser.add_argument(
        "--theta",
        choices=list(THETA_GUIDES),
        help=f"posterior of what tasks share (default {defaults.theta})",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="gradient steps on a new task (default: abmll chooses among "
        f"{', '.join(map(str, STEPS))} on meta-dev tasks, its encoder takes none, others 15); "
        "fomaml, reptile and abmll-published take as many on training tasks",
    )
    parser.add_argument(
        "--max-steps", type=int, help=f"optimizer steps (default {defaults.max_steps})"
    )
    parser.add_argument(
        "--support",
        type=int,
        nargs="+",
        metavar="N",
        help="sizes of training support sets: examples of each class, in all for multiple choice "
        f"(default {' '.join(map(str, episodes.support))})",
    )
    parser.add_argument("--query", type=int, help=f"queries (default {episodes.query})")
    parser.add_argument(
        "--tasks-per-step", type=int, help=f"side by side (default {defaults.tasks_per_step})"
    )
    parser.add_argument(
        "--kl-weight",
        type=float,
        help=f"of the priors; 1: Bayes' rule (default {defaults.kl_weight})",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        dest="meta_learning_rate",
        metavar="LEARNING_RATE",
        help=f"of what tasks share (default {defaults.meta_learning_rate})",
    )
    parser.add_argument("--seed", type=int, help="of starts, episodes, draws, held-out tasks")


def _add_adapt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="what meta-fit wrote")
    _add_data(parser)
    parser.add_argument("--out", required=True, metavar="RUN2", help="new folder")
    parser.add_argument(
        "--support",
        type=int,
        metavar="N",
        help="take so many examples: of each class, in all for multiple choice (default: all)",
    )
    parser.add_argument("--support-seed", type=int, help="which ones (default 0)")
    parser.add_argument("--model", help="where the run's backbone lies now, if it moved")
    parser.add_argument("--dtype", choices=DTYPES, help="of the backbone (default: the run's)")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_folder",
        metavar="RUN",
        help="what fit, meta-fit or adapt wrote; or a backbone: zero-shot prediction",
    )
    _add_data(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="predictions.jsonl")
    parser.add_argument(
        "--draws", type=int, help="sets of weights to average over; 0: the posterior mean"
    )
    parser.add_argument(
        "--linearised",
        action="store_true",
        default=None,
        help=f"average over logits ({LOGITS}, or --draws), and not over weights ({DRAWS}). Default "
        "where neither is given: what docs/defaults.md found best for the guide and the scorer",
    )
    parser.add_argument(
        "--recalibrate", choices=RECALIBRATIONS, help="change probabilities as fits --dev best"
    )
    parser.add_argument("--dev", nargs="+", metavar="SPEC", help="labelled rows for --recalibrate")
    parser.add_argument(
        "--unknown",
        choices=[unknown.value for unknown in Unknown],
        help="what predicts for a level that training did not see: a draw of the levels' prior "
        "(default), the population, or the levels' average",
    )
    parser.add_argument("--model", help="where the run's backbone lies now, if it moved")
    parser.add_argument(
        "--scorer",
        choices=CARRIED,
        help="of a backbone (default: similarity for an encoder, else likelihood)",
    )
    parser.add_argument("--max-length", type=_positive, help="of a backbone: tokens (default 256)")
    parser.add_argument("--dtype", choices=DTYPES, help="of the backbone (default: the fit's)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", nargs="+", metavar="predictions.jsonl")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the report")


def _add_tasks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", metavar="SPEC", help=SPEC_HELP)
    _add_partition(parser)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, nargs="+", metavar="SPEC", help=SPEC_HELP)
    _add_partition(parser)


def _add_partition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partition", metavar="FILE", help="json: which tasks of a gym to take")
    parser.add_argument("--part", help="of the partition (default: train to fit, else test)")
    parser.add_argument(
        "--strict", action="store_true", help="refuse what would be left out with a warning"
    )
