"""How the defaults of meta-fitting were chosen: by the NLL of meta-dev tasks' queries.

    python examples/meta_learning/choose.py clinc150 --data DATA_ROOT --out RESULTS.json

Trains theta in several ways on a suite's first fold, and adapts to its meta-dev tasks in several
ways, the same episodes each time; test tasks are not looked at. In every case the scorer's own
weights are shifted as the other meta-dev tasks say (cross-validation). Resumable: what
RESULTS.json holds is not run again.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from compare import load
from methods import BUDGETS, Learner
from suites import Suite, load_suite

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, write_json

from bayes_lora.meta import MetaPosterior, development, meta_fit

BASE = "default"
POINT = 1e-3  # a tau at which draws are all alike
TRAINED: dict[str, dict[str, Any]] = {
    "no step in training": {"train_steps": 0},
    "tau learned": {"learn_tau": True},
    "mean-field theta": {"theta": "mean-field"},
    "half as many meta-steps": {"max_steps": 0.5},
    "twice as many meta-steps": {"max_steps": 2.0},
}
ADAPTED: dict[str, dict[str, Any]] = {
    "no step": {"steps": 0},
    "4 steps": {"steps": 4},
    "30 steps": {"steps": 30},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 4e-3": {"learning_rate": 4e-3},
    "tau 0.05": {"tau": 0.05},
    "tau 0.2": {"tau": 0.2},
    "KL weight 0.01": {"kl_weight": 0.01},
    "KL weight 0.3": {"kl_weight": 0.3},
    "KL weight 1": {"kl_weight": 1.0},
}
SHIFT_WEIGHTS = (0.0, 0.003, 0.01, 0.1)  # the default is 0.03
Work = tuple[str, Callable[[], MetaPosterior]]


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("suite", choices=list(BUDGETS))
    parser.add_argument("--data", required=True, type=Path, help="see suites.py")
    parser.add_argument("--out", required=True, type=Path, help="RESULTS.json")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = describe_run()
    if arguments.out.exists():
        results["results"] = json.loads(arguments.out.read_text())["results"]
    suite = load_suite(arguments.suite, arguments.data)[0]
    for name, make in work(suite, arguments.seed):
        if name not in results["results"]:
            started = time.perf_counter()
            found = {"dev_nll": make().dev_nll}
            results["results"][name] = found | {"seconds": time.perf_counter() - started}
            write_json(results, arguments.out)
            print(f"{name}: {found['dev_nll']:.4f}", flush=True)


def work(suite: Suite, seed: int) -> Iterator[Work]:
    """List what to try; theta is trained when it is first needed."""
    backbone = load(torch.bfloat16, suite)
    budget = BUDGETS[suite.name]
    settings = budget.settings(suite, seed, "abmll")

    learner = Learner(suite, backbone, seed)

    @cache
    def theta() -> MetaPosterior:
        return meta_fit(suite.train, backbone, dev=suite.dev, settings=settings)

    def trained(changes: dict[str, Any]) -> MetaPosterior:
        longer = int(changes.get("max_steps", 1) * budget.max_steps)
        own = replace(settings, **changes | {"max_steps": longer})
        return meta_fit(suite.train, backbone, dev=suite.dev, settings=own)

    def adapted(changes: dict[str, Any]) -> MetaPosterior:
        return theta().revised(replace(settings, **changes), dev=suite.dev)

    def shifted(weight: float) -> MetaPosterior:
        with patch.object(development, "SHIFT_WEIGHT", weight):
            return adapted({})

    def scored(scorer: str, tau: float) -> MetaPosterior:
        own = replace(settings, steps=0, tau=tau)
        return learner.multi_task.revised(own, dev=suite.dev, scorer=scorer)

    def encoded(steps: int) -> MetaPosterior:
        own = replace(settings, amortization="encoder", steps=steps)
        return meta_fit(suite.train, backbone, dev=suite.dev, settings=own)

    for scorer in ("similarity", "conjugate", "discriminant"):
        yield f"pooled rows alone, {scorer}", partial(scored, scorer, POINT)
        yield (
            f"pooled rows alone, {scorer}, draws of the prior",
            partial(scored, scorer, settings.tau),
        )
    yield BASE, theta
    for name, changes in ADAPTED.items():
        yield name, partial(adapted, changes)
    for weight in SHIFT_WEIGHTS:
        yield f"prior of the shift with weight {weight:g}", partial(shifted, weight)
    yield "encoder", partial(encoded, 0)
    yield "encoder, then 4 steps", partial(encoded, 4)
    for name, changes in TRAINED.items():
        yield name, partial(trained, changes)


if __name__ == "__main__":
    main()
