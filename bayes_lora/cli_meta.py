"""The commands of many tasks: meta-fit, and adapt."""

import argparse
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from bayes_lora.adapters import ADAPTERS
from bayes_lora.cli_input import DTYPES, cut, given, load_named, read_data, warn, warnings
from bayes_lora.data import Task, TaskSet, check_disjoint, read, remove_overlap, split_tasks
from bayes_lora.data.partition import read_partition
from bayes_lora.data.spec import Request, find
from bayes_lora.errors import ConfigError, InputDataError, RunFolderError, check_seed
from bayes_lora.meta import EpisodeSettings, MetaPosterior, MetaSettings, meta_fit, tuned
from bayes_lora.meta.adapted import Shots, write_adapted
from bayes_lora.meta.meta_fit import default_meta_scorer
from bayes_lora.meta.tuning import STEPS
from bayes_lora.run_config import META_FILE, check_free
from bayes_lora.scorers import Discriminant, keep_scorable, make_scorer

HELD_OUT = 0.2  # of the tasks, where no meta-dev tasks are given
FLAGS = (
    "method",
    "amortization",
    "theta",
    "steps",
    "max_steps",
    "tasks_per_step",
    "kl_weight",
    "meta_learning_rate",
    "seed",
)


def run_meta_fit(arguments: argparse.Namespace) -> None:
    """Learn what tasks share, and write it to a new folder."""
    check_free(Path(arguments.out))  # before the work, not after it
    settings = _settings(arguments)
    read_tasks, held_out = _read_parts(arguments, settings.seed)
    backbone = load_named(arguments.model, arguments)
    name = arguments.scorer or default_meta_scorer(backbone, settings.method)
    scorer = make_scorer(name, backbone, ())
    tasks, dev = (
        keep_scorable(part, scorer, backbone, strict=arguments.strict)
        for part in (read_tasks, held_out)
    )
    print(f"{len(tasks)} task(s), {sum(map(len, tasks))} rows, scorer {name}")
    source = "" if arguments.dev else " held out"
    print(f"{len(dev)} meta-dev task(s){source}: {', '.join(task.name for task in dev)}")
    warn(*warnings(tasks), *warnings(dev), *cut(scorer, backbone, tasks))
    learned = meta_fit(
        tasks,
        backbone,
        dev=dev,
        scorer=name,
        adapter=given(ADAPTERS[arguments.adapter], arguments, ("rank",)),
        settings=settings,
        progress=True,
    )
    if len(dev) and settings.method == "abmll" and settings.amortization == "gradient":
        learned = _tuned(learned, dev, arguments)
    learned.save_pretrained(arguments.out)
    print(f"Meta run written to {arguments.out}")


def _tuned(learned: MetaPosterior, dev: TaskSet, arguments: argparse.Namespace) -> MetaPosterior:
    """Choose on the meta-dev tasks what the user has not said of how to adapt."""
    plain = arguments.scorer is None and isinstance(learned.config.scorer, Discriminant)
    steps = STEPS if arguments.steps is None else (arguments.steps,)
    learned = tuned(learned, dev, scorers=("similarity",) if plain else (), steps=steps)
    settings = learned.config.settings
    print(
        f"Chosen on meta-dev tasks: scorer {learned.config.scorer_name}, "
        f"{settings.gradient_steps} step(s), tau {settings.tau:g}; "
        f"NLL {learned.dev_nll:.3f} after adapting"
    )
    return learned


def run_adapt(arguments: argparse.Namespace) -> None:
    """Adapt to every task of the data, and write the posteriors to a new folder."""
    out = Path(arguments.out)
    check_free(out)
    shots = _shots(arguments)
    source = load_meta(arguments)
    tasks = read_data(arguments, arguments.data, "train", "test")
    scorer, backbone = source.config.scorer, source.backbone
    tasks = keep_scorable(tasks, scorer, backbone, strict=arguments.strict)
    warn(*warnings(tasks), *cut(scorer, backbone, tasks))
    with tqdm(total=len(tasks), desc="adapt") as bar:
        folder = Path(arguments.run_folder)
        write_adapted(source, folder, tasks, out, shots=shots, progress=bar.update)
    print(f"Posteriors of {len(tasks)} task(s) written to {out}")


def load_meta(arguments: argparse.Namespace) -> MetaPosterior:
    """Load the command's meta run.

    Raises:
        RunFolderError: It is none, or broken.
    """
    folder = Path(arguments.run_folder)
    if not (folder / META_FILE).exists():
        raise RunFolderError(
            f"{str(folder)!r} is no meta run (there is no {META_FILE} in it): give what meta-fit "
            "wrote."
        )
    dtype = DTYPES[arguments.dtype] if arguments.dtype else None
    return MetaPosterior.from_pretrained(folder, backbone=arguments.model, dtype=dtype)


def _settings(arguments: argparse.Namespace) -> MetaSettings:
    episodes = given(EpisodeSettings, arguments, ("support", "query"))
    settings: MetaSettings = given(partial(MetaSettings, episodes=episodes), arguments, FLAGS)
    return settings


def _shots(arguments: argparse.Namespace) -> Shots | None:
    """Read ``--support`` and ``--support-seed``; None for all the rows there are."""
    if arguments.support is None:
        if arguments.support_seed is not None:
            raise ConfigError("--support-seed says which rows --support takes: give both.")
        return None
    seed = arguments.support_seed or 0
    check_seed(seed)
    return Shots(arguments.support, seed)


def _read_parts(arguments: argparse.Namespace, seed: int) -> tuple[TaskSet, TaskSet]:
    """Read the tasks to train on and the meta-dev tasks.

    No row is in both, nor in a task of the partition's part ``test``: gyms have many data sets
    several times under different names.
    """
    test = _read_test(arguments) if arguments.partition else ()
    everything = read_data(arguments, arguments.data, "train", "train")
    if arguments.dev:
        tasks, dev = everything, _read_dev(arguments)
        check_disjoint(**{"--data": _names(tasks), "--dev": _names(dev)})
    else:
        tasks, dev = _hold_out(everything, seed)
    apart = remove_overlap(tasks, dev, test)
    whose = "meta-dev or test" if test else "meta-dev"
    return (
        _counted(tasks, apart.train, apart.counts["train"], "training row(s)", whose),
        _counted(dev, apart.dev, apart.counts["dev"], "meta-dev row(s)", "test"),
    )


def _counted(before: TaskSet, after: TaskSet, number: int, what: str, whose: str) -> TaskSet:
    """Say first how many rows were removed, in all."""
    removed = [f"{number} {what} dropped: {whose} tasks have them too"] if number else []
    return TaskSet(after.tasks, (*before.warnings, *removed, *after.warnings))


def _read_test(arguments: argparse.Namespace) -> list[Task]:
    """Read all rows of the tasks to be judged on, and refuse to train or choose on such a task."""
    plan = read_partition(arguments.partition)
    plan.check_leaks(arguments.part or "train")
    if arguments.dev:
        plan.check_leaks("dev")
    found = find(arguments.data, Request(partition=plan, part="test"))
    return [rows for _, one in found for task in one.tasks for rows in task.splits.values()]


def _read_dev(arguments: argparse.Namespace) -> TaskSet:
    """Read ``--dev``: the rows to train on, of other tasks."""
    part = "dev" if arguments.partition else None
    return read(
        arguments.dev,
        split="train",
        partition=arguments.partition,
        part=part,
        strict=arguments.strict,
    )


def _hold_out(tasks: TaskSet, seed: int) -> tuple[TaskSet, TaskSet]:
    if len(tasks) < 3:
        raise InputDataError(
            f"{len(tasks)} task(s) ({', '.join(_names(tasks))}): meta-fit trains on two or more "
            "and stops early on another; add tasks, or name meta-dev tasks with --dev"
        )
    train, dev = split_tasks(tasks, HELD_OUT, seed)
    return TaskSet(train, tasks.warnings), TaskSet(dev)


def _names(tasks: TaskSet) -> list[str]:
    return [task.name for task in tasks]
