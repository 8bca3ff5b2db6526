"""How far can a fine-tuned classifier be trusted after 500 sentences of SST-2?

    python examples/sst2_uncertainty/run.py --data FOLDER --out OUT

FOLDER holds stsa.binary.{train,dev,test}. Fits MiniLM with a class head on the first 500 training
sentences, three seeds each, and judges on the whole test file:

    mle               maximum likelihood, as many steps as the Bayesian fit; no dev rows
    mle-early         the same, stopped at the epoch of least NLL on 200 dev sentences
    mle-early-temp    that, with a temperature fitted on the same 200
    mean-field        the project's defaults; no dev rows

Writes OUT/results.json, one predictions file a method and seed, and a report of seed 0. Resumable:
what has its predictions file already is not run again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, read_lines, to_task, write_json

from bayes_lora import FitSettings, Posterior, fit, load_backbone
from bayes_lora.data import Task
from bayes_lora.inference.methods import DEFAULTS
from bayes_lora.output import write_predictions
from bayes_lora.predict import Predictions
from calibration import (
    accuracy,
    apply_temperature,
    brier,
    ece,
    entropy,
    fit_temperature,
    nll,
    read_predictions,
    write_report,
)

TRAIN_ROWS, DEV_ROWS, SEEDS = 500, 200, (0, 1, 2)
METHODS = ("mle", "mle-early", "mle-early-temp", "mean-field")
METRICS = {"accuracy": accuracy, "nll": nll, "ece": ece, "brier": brier}


def load_task(folder: Path, split: str, rows: int | None = None) -> Task:
    lines = read_lines(folder / f"stsa.binary.{split}")
    return to_task(f"stsa.binary.{split}", lines[:rows], lines)


def fit_method(method: str, train: Task, dev: Task, seed: int) -> Posterior:
    return fit(
        [train],
        load_backbone("minilm"),
        guide="mean-field" if method == "mean-field" else "mle",
        settings=FitSettings(seed=seed),
        dev=[dev] if method == "mle-early" else [],
        progress=True,
    )


def run_method(method: str, seed: int, folder: Path, out: Path) -> dict[str, float]:
    train = load_task(folder, "train", TRAIN_ROWS)
    dev, test = load_task(folder, "dev", DEV_ROWS), load_task(folder, "test")
    started = time.perf_counter()
    posterior = fit_method(method, train, dev, seed)
    times = {"fit_seconds": round(time.perf_counter() - started, 1)}
    predictions = posterior.predict(test.examples, seed=seed)
    if method == "mle-early":
        on_dev = posterior.predict(dev.examples).probabilities
        temperature = fit_temperature(on_dev, dev.labels)
        scaled = apply_temperature(predictions.probabilities, temperature)
        entropies = entropy(scaled)
        tempered = Predictions(scaled, entropies, entropies, predictions.num_draws)
        write_predictions([test], tempered, predictions_file(out, "mle-early-temp", seed))
        times["temperature"] = round(temperature, 3)
    write_predictions([test], predictions, predictions_file(out, method, seed))
    return times


def predictions_file(out: Path, method: str, seed: int) -> Path:
    return out / f"{method}-seed{seed}.jsonl"


def measure(out: Path, method: str) -> dict[str, Any]:
    rows: dict[str, list[float]] = {name: [] for name in METRICS}
    for seed in SEEDS:
        read = read_predictions(predictions_file(out, method, seed)).predictions
        for name, metric in METRICS.items():
            rows[name].append(metric(read.probabilities, read.labels))
    return {
        name: {"mean": np.mean(v), "sd": np.std(v, ddof=1), "seeds": v} for name, v in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of stsa.binary.*")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    settings = {name: repr(value) for name, value in DEFAULTS.items()}
    results = describe_run() | {"seeds": SEEDS, "settings": settings, "fits": {}}
    if (out / "results.json").exists():
        earlier = json.loads((out / "results.json").read_text())
        if earlier["settings"] != settings:
            parser.error(f"{out} holds results of other defaults: give another folder")
        results["fits"] = earlier["fits"]
    for seed in SEEDS:
        for method in ("mle-early", "mle", "mean-field"):  # mle-early writes mle-early-temp as well
            if not predictions_file(out, method, seed).exists():
                fitted = run_method(method, seed, arguments.data, out)
                results["fits"][f"{method}-seed{seed}"] = fitted
                write_json(results, out / "results.json")
    results["results"] = {method: measure(out, method) for method in METHODS}
    write_json(results, out / "results.json")
    files = [predictions_file(out, method, 0) for method in METHODS]
    write_report(files, out / "report", title="SST-2, 500 training sentences, seed 0")
    print(f"{'method':16}" + "".join(f"{name:>18}" for name in METRICS))
    for method in METHODS:
        cells = (results["results"][method][name] for name in METRICS)
        print(f"{method:16}" + "".join(f"{c['mean']:10.4f} ± {c['sd']:.4f} " for c in cells))
    print(f"Report: {out / 'report' / 'report.html'}")


if __name__ == "__main__":
    main()
