"""What meta-fitting costs beside plain LoRA steps, and adapting to a new task, in one run.

    python examples/benchmarks/meta_step.py --out RESULTS.json [--rounds 5]

A meta-step: T = 8 tasks of 16 support rows and 16 queries, 32 tokens each, two options; K = 5 steps
on the supports, then the queries. Beside it: six steps of PEFT's LoRA on the same rows, 128 in each
of five, and in the sixth the 128 queries, with the 128 support rows where the scorer (discriminant)
reads them again. Same model (MiniLM, float32, rank 8 on query and value), AdamW, no dropout. Both
take turns, so a machine that slows down slows both; figures are medians. Peak memory is the
resident set of a process of its own (with a CUDA device: the allocator's peak); with 10, 100 and
1,000 training tasks for the meta-fit. Adapting: seconds for one new task of 16 rows a class.
"""

import argparse
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import describe_run, write_json
from timing import DEVICE, Step, Times, in_turns
from train_step import peft_lora

from bayes_lora import Task, load_backbone
from bayes_lora.adapters import LoRA
from bayes_lora.data import Example
from bayes_lora.inference.training_state import training
from bayes_lora.meta import EpisodeSettings, MetaSettings, meta_fit
from bayes_lora.meta.config import MetaConfig
from bayes_lora.meta.episodes import Episodes, Tokenized
from bayes_lora.scorers import make_scorer

TASKS, SUPPORT, QUERY, TOKENS, STEPS = 8, 16, 16, 32, 5
OPTIONS = ("yes", "no")
SCORERS = ("similarity", "discriminant")


def make_tasks(count: int) -> list[Task]:
    """Tasks whose rows are words of one token each, all of one length."""
    words = [
        w for w, i in load_backbone("minilm").tokenizer.vocab.items() if w.isalpha() and len(w) > 2
    ]
    rng = np.random.default_rng(0)
    tasks = []
    for number in range(count):
        texts = [" ".join(rng.choice(words, TOKENS - 2)) for _ in range(SUPPORT + QUERY)]
        rows = [
            Example(input=text, options=OPTIONS, label=i % 2, where=f"task {number}, row {i}")
            for i, text in enumerate(texts)
        ]
        tasks.append(Task(f"task {number}", tuple(rows)))
    return tasks


def meta_step(scorer: str) -> Step:
    """Make the step of a meta-fit."""
    settings = MetaSettings(
        train_steps=STEPS,
        episodes=EpisodeSettings((SUPPORT // 2,), QUERY),
        tasks_per_step=TASKS,
    )
    tasks, backbone = make_tasks(TASKS), load_backbone("minilm").to(DEVICE)
    names = tuple(task.name for task in tasks)
    config = MetaConfig(make_scorer(scorer, backbone, ()), LoRA(), settings, names, (), (OPTIONS,))
    module = config.build(backbone)
    rows = Tokenized(module.hierarchy.model, tasks)
    episodes = Episodes(tasks, rows, settings.episodes, batch=TASKS, length=TASKS, seed=0)
    batch = [episodes[i] for i in range(TASKS)]
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        with training(backbone):
            module(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_steps(scorer: str) -> Step:
    """Make as many plain LoRA steps on the same rows."""
    model = peft_lora("minilm")
    last = TASKS * (QUERY + (SUPPORT if scorer == "discriminant" else 0))
    ids = torch.randint(1000, 20_000, (last + TASKS * SUPPORT, TOKENS), device=DEVICE)
    labels = torch.randint(0, 2, (len(ids),), device=DEVICE)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        for count in [TASKS * SUPPORT] * STEPS + [last]:
            given = ids[:count]
            mask = torch.ones_like(given)
            model(input_ids=given, attention_mask=mask, labels=labels[:count])["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def peak(name: str, scorer: str, count: int) -> float:
    """Run a few steps in this process, and return its peak memory in MiB."""
    if name == "meta-fit":
        settings = MetaSettings(
            train_steps=STEPS,
            max_steps=3,
            tasks_per_step=TASKS,
            episodes=EpisodeSettings((SUPPORT // 2,), QUERY),
        )
        meta_fit(make_tasks(count), load_backbone("minilm"), scorer=scorer, settings=settings)
    else:
        step = peft_steps(scorer)
        make_tasks(count)  # the same start
        for _ in range(2):
            step()
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_peak(name: str, scorer: str, count: int) -> float:
    """Return peak memory of a process of its own, in MiB."""
    command = [sys.executable, __file__, "--peak-of", name, scorer, str(count), "--out", os.devnull]
    return float(subprocess.check_output(command, text=True).split()[-1])


def adaptation(rounds: int) -> dict[str, Times]:
    """Time adapting to a new task with 16 rows a class, by each amortization."""
    tasks, backbone = make_tasks(3), load_backbone("minilm")
    times = {}
    for kind in ("gradient", "encoder"):
        settings = MetaSettings(amortization=kind, max_steps=1, tasks_per_step=2)
        learned = meta_fit(tasks[:2], backbone, settings=settings)
        support = tasks[2].examples[: 2 * SUPPORT]
        step = {"adapt": partial(learned.adapt, support)}
        times[kind] = in_turns(step, rounds, warm_up=1)["adapt"]
    return times


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        name, scorer, count = arguments.peak_of
        print(peak(name, scorer, int(count)))
        return
    results = describe_run() | {"device": DEVICE}
    found = results["results"]
    # Memory first: a process starts with its parent's peak for its own.
    base = measure_peak("peft", "discriminant", 10)
    for count in (10, 100, 1000):
        mib = measure_peak("meta-fit", "discriminant", count)
        found[f"memory, {count} tasks"] = {"peak_mib": mib, "over_peft": mib / base}
    for scorer in SCORERS:
        work = {"meta-step": meta_step(scorer), "peft": peft_steps(scorer)}
        times = in_turns(work, arguments.rounds, warm_up=1)
        found[f"meta-step, {scorer}"] = {
            "over_peft": times["meta-step"].median / times["peft"].median,
            "seconds": {name: own.wall for name, own in times.items()},
        }
    for kind, own in adaptation(arguments.rounds).items():
        found[f"adapt, {kind}"] = {"median_seconds": own.median, "seconds": own.wall}
    write_json(results, arguments.out)
    for name, row in found.items():
        print(name, {key: round(value, 3) for key, value in row.items() if key != "seconds"})


if __name__ == "__main__":
    main()
