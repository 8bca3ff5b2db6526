"""What a prediction costs beside one forward pass of every row, by the number of options.

    OMP_NUM_THREADS=1 python examples/benchmarks/prediction.py --out RESULTS.json [--rounds 5]

MiniLM under a mean-field posterior, on the demo's messages, with a class head or with options read
as text (`similarity`): the posterior mean (one pass), draws of weights, and the linearised
predictive. The same with the attention that transformers takes by default, a fused kernel, and with
a training step, so that what `fastest_attention` chooses can be judged. All take turns; figures are
medians. The fit is of two steps: what a pass costs does not depend on what was learned.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import describe_run, write_json
from timing import Step, in_turns

from bayes_lora import FitSettings, Posterior, Task, fit, load_backbone
from bayes_lora.backbone import Backbone
from bayes_lora.cli_input import DTYPES
from bayes_lora.data.generated import generate

ROWS, STEPS = 200, 4
OPTIONS = (2, 4, 6)
WAYS: dict[str, dict[str, Any]] = {
    "posterior mean": {"draws": 0},
    "2 draws": {"draws": 2},
    "6 draws": {"draws": 6},
    "10 draws": {"draws": 10},
    "linearised": {"linearised": True},
}


def main() -> None:
    """Time it, write it and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    arguments = parser.parse_args()
    results = describe_run() | {"rows": ROWS, "dtype": arguments.dtype}
    for name, work, base in studies(DTYPES[arguments.dtype]):
        times = in_turns(work, arguments.rounds, warm_up=1)
        found = results["results"][name] = {}
        for way, own in times.items():
            ratios = own.beside(times[base])
            found[way] = {"median_seconds": own.median, f"over_{base}": ratios}
            print(f"{name} | {way}: {own.median:.2f} s, x {ratios['cpu']:.2f}")
        write_json(results, arguments.out)


def studies(dtype: torch.dtype) -> Iterator[tuple[str, dict[str, Step], str]]:
    """Give each study's name, what takes turns in it, and what the others are beside."""
    backbone = load_backbone("minilm", dtype=dtype)
    for options in OPTIONS:
        task = messages(options)
        posterior = fitted(task, backbone)
        yield f"{options} options", ways(posterior, task), "posterior mean"
    posterior = fitted(task, backbone, scorer="similarity")
    yield f"{options} options, read", ways(posterior, task), "posterior mean"
    task = messages(2)
    for name, run in (("linearised", predicting), ("training", training)):
        attentions = {
            attention: run(task, load_backbone("minilm", dtype=dtype, attention=attention))
            for attention in ("sdpa", "eager")
        }
        yield f"attention, {name}", attentions, "sdpa"


def messages(options: int) -> Task:
    """Give messages so many options; what is right is not asked here."""
    names = tuple(f"class {i}" for i in range(options))
    generated = generate(ROWS, seed=0)
    rows = enumerate(generated.examples)
    examples = tuple(replace(row, options=names, label=i % options) for i, row in rows)
    return replace(generated, examples=examples)


def fitted(task: Task, backbone: Backbone, steps: int = 2, scorer: str | None = None) -> Posterior:
    """Fit for a few steps."""
    return fit([task], backbone, scorer=scorer, settings=FitSettings(max_steps=steps))


def ways(posterior: Posterior, task: Task) -> dict[str, Step]:
    """Predict in every way."""
    return {name: partial(posterior.predict, task.examples, **how) for name, how in WAYS.items()}


def predicting(task: Task, backbone: Backbone) -> Step:
    """Predict linearised."""
    return partial(fitted(task, backbone).predict, task.examples, linearised=True)


def training(task: Task, backbone: Backbone) -> Step:
    """Fit for a few steps."""
    return partial(fitted, task, backbone, STEPS)


if __name__ == "__main__":
    main()
