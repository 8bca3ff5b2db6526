"""How far log scales of the default guide may move in a fit: by the NLL of development rows.

    python examples/uncertainty_benchmark/choose.py --data DATA --out RESULTS.json

DATA and the sets are those of run.py with --development, so that no row of a test file is looked
at; at most 1,000 rows are judged. Resumable: what is in RESULTS.json is not run again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from sets import SETS, Data, load
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, load_minilm, write_json

from bayes_lora import FitSettings, fit
from bayes_lora.backbone import Backbone
from calibration import accuracy, ece, nll

JUDGED = 1000
NATS: tuple[float | None, ...] = (None, 1.0, 0.3, 0.1)  # None: the default's rate


def main() -> None:
    """Run what is not there yet, and print it."""
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder that has the sets' folders"
    )
    parser.add_argument("--out", type=Path, required=True, help="file for results")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1))
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else describe_run()
    for seed in arguments.seeds:
        for name in arguments.sets:
            data = load(name, arguments.data, seed, development=True)
            for nats in NATS:
                key = f"{name} | seed {seed} | {'default' if nats is None else f'{nats:g} nats'}"
                if key not in results["results"]:
                    results["results"][key] = run(data, seed, nats, load_minilm())
                    write_json(results, arguments.out)
                    print(key, results["results"][key], flush=True)


def run(data: Data, seed: int, nats: float | None, backbone: Backbone) -> dict[str, Any]:
    """Fit with such a rate of scales, and judge."""
    settings = FitSettings(seed=seed)
    steps = settings.length(-(-len(data.given) // settings.batch_size))
    rate = settings.scale_rate(steps) if nats is None else 2 * nats / steps  # it decays to zero
    started = time.perf_counter()
    posterior = fit(
        [data.given],
        backbone,
        scorer=data.scorer,
        settings=FitSettings(seed=seed, scale_learning_rate=rate),
    )
    seconds = time.perf_counter() - started
    rows = data.judged.examples[:JUDGED]
    probabilities = posterior.predict(rows, seed=seed).probabilities
    labels = [row.label for row in rows]
    measures = {own.__name__: round(own(probabilities, labels), 4) for own in (accuracy, nll, ece)}
    return {**measures, "steps": steps, "rate": rate, "fit_seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
