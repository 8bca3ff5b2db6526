"""How long five members take, fitted side by side as an ensemble and in turn as five fits.

    python examples/benchmarks/members.py --data DATA --out RESULTS.json [--steps 40] [--rounds 3]

DATA has the folder `classification`. Both learn from the first 200 sentences of SST-2, with the
default LoRA on MiniLM as the comparisons load it; the five fits are an ensemble of one each, of
the seeds that the members have. The two ways take turns; the figures are medians over rounds.
"""

import argparse
from functools import partial
from pathlib import Path

from common import describe_run, load_minilm, read_lines, to_task, write_json
from timing import DEVICE, in_turns

from bayes_lora import FitSettings, Task, fit
from bayes_lora.backbone import Backbone
from bayes_lora.guides import DeepEnsemble

MEMBERS, ROWS = 5, 200


def fit_members(task: Task, backbone: Backbone, steps: int, members: int, seed: int = 0) -> None:
    """Fit an ensemble."""
    settings = FitSettings(max_steps=steps, seed=seed)
    fit([task], backbone, guide=DeepEnsemble(members), settings=settings)


def in_turn(task: Task, backbone: Backbone, steps: int) -> None:
    """Fit each member alone."""
    for seed in range(MEMBERS):
        fit_members(task, backbone, steps, members=1, seed=seed)


def main() -> None:
    """Time both, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    lines = read_lines(arguments.data / "classification" / "stsa.binary.train")
    task, backbone = to_task("sst2", lines[:ROWS], lines), load_minilm().to(DEVICE)
    work = {
        "in turn": partial(in_turn, task, backbone, arguments.steps),
        "side by side": partial(fit_members, task, backbone, arguments.steps, MEMBERS),
    }
    times = in_turns(work, arguments.rounds, warm_up=1)
    results = describe_run() | {"device": DEVICE, "members": MEMBERS, "steps": arguments.steps}
    for name, own in times.items():
        row = {"median_seconds": own.median, "seconds": own.wall}
        results["results"][name] = row | {"over in turn": own.beside(times["in turn"])}
        print(f"{name:12} {own.median:7.1f} s, x {own.beside(times['in turn'])['wall']:.2f}")
    write_json(results, arguments.out)


if __name__ == "__main__":
    main()
