"""How settings of the default guide were chosen: by the NLL of development rows.

    python examples/uncertainty_benchmark/choose.py STUDY --data DATA --out RESULTS.json

    scales   how far log scales may move in a fit
    noise    how much of a fit's noise predicts
    head     the width of the prior of the head's weights, in units
    weight   the KL weight
    draws    how many draws predict: means over predictions with other draws of one fit

`head` and `weight` predict with draws of weights, linearised and with the mean alone.

DATA and the sets are those of run.py with --development, so that no row of a test file is looked
at; at most 1,000 rows are judged. Beside each NLL, but for `draws`, stands what the temperature
that is best on these very rows would make of it. Resumable: what is in RESULTS.json is not run
again.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from sets import SETS, Data, load
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, load_minilm, write_json

from bayes_lora import FitSettings, ModelSettings, Normal, Posterior, fit
from bayes_lora.backbone import Backbone
from bayes_lora.scorers import ClassHead
from calibration import accuracy, apply_temperature, ece, fit_temperature, nll

JUDGED = 1000
NATS: tuple[float | None, ...] = (None, 1.0, 0.3, 0.1)  # None: the default's rate
SHARES = (1.0, 0.75, 0.5, 0.0)  # of the fit's standard deviations
WIDTHS = (1.5, 3.7, 6.0, 10.0)
WEIGHTS = (0.3, 1.0)
DRAWN, COUNTS = 60, (2, 4, 6, 10, 20, 60)
MEASURES = (accuracy, nll, ece)
WAYS: dict[str, dict[str, Any]] = {
    "10 draws": {"draws": 10},
    "4 draws": {"draws": 4},
    "2 draws": {"draws": 2},
    "linearised": {"linearised": True},
    "the mean": {"draws": 0},
}
Found = dict[str, Any]


def main() -> None:
    """Run what is not there yet, and print it."""
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("study", choices=list(STUDIES))
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
            done = f"{name} | seed {seed}"
            if done in results["results"]:
                continue
            found = results["results"][done] = {}
            data = load(name, arguments.data, seed, development=True)
            for choice, own in STUDIES[arguments.study](data, seed):
                found[choice] = own
                print(f"{done} | {choice}", own, flush=True)
            write_json(results, arguments.out)


def scales(data: Data, seed: int) -> Iterator[tuple[str, Found]]:
    """Fit with such a rate of scales, and judge."""
    settings = FitSettings(seed=seed)
    steps = settings.length(len(data.given) // settings.batch_size)
    for nats in NATS:
        rate = settings.scale_rate(steps) if nats is None else 2 * nats / steps  # it decays
        posterior = _fit(data, replace(settings, scale_learning_rate=rate))
        choice = "default" if nats is None else f"{nats:g} nats"
        yield choice, {**judge(posterior, data, seed), "steps": steps, "rate": rate}


def noise(data: Data, seed: int) -> Iterator[tuple[str, Found]]:
    """Fit once, and predict with ever less of its noise."""
    posterior = _fit(data, FitSettings(seed=seed))
    fitted = {key: own.clone() for key, own in posterior.guide.state_dict().items()}
    for share in SHARES:
        scaled = {
            key: own + math.log(share) if share and "log_scale" in key else own
            for key, own in fitted.items()
        }
        posterior.guide.load_state_dict(scaled)
        yield f"{share:g} of the noise", judge(posterior, data, seed, draws=10 if share else 0)


def head(data: Data, seed: int) -> Iterator[tuple[str, Found]]:
    """Fit with such a prior of the head's weights, and predict in every way."""
    options = data.given.examples[0].options
    spread = ClassHead(options, "mean").factors(backbone().hidden_size)["weight"].spread
    for width in WIDTHS:
        prior = ModelSettings(head_prior=Normal(width / spread))
        posterior = _fit(data, FitSettings(seed=seed), prior)
        for way, how in WAYS.items():
            yield f"{width:g} units, {way}", judge(posterior, data, seed, **how)


def weight(data: Data, seed: int) -> Iterator[tuple[str, Found]]:
    """Fit with such a KL weight, and predict in every way."""
    for own in WEIGHTS:
        posterior = _fit(data, FitSettings(seed=seed), ModelSettings(kl_weight=own))
        for way, how in WAYS.items():
            yield f"KL weight {own:g}, {way}", judge(posterior, data, seed, **how)


def draws(data: Data, seed: int) -> Iterator[tuple[str, Found]]:
    """Fit once, draw often, and average over predictions with fewer of these draws."""
    posterior = _fit(data, FitSettings(seed=seed))
    rows = data.judged.examples[:JUDGED]
    labels = [row.label for row in rows]
    drawn = posterior.predict(rows, draws=DRAWN, seed=seed, keep_draws=True).per_draw
    assert drawn is not None
    for count in COUNTS:  # each draw beside its mirror image, as predict has them
        means = drawn.reshape(-1, count, *drawn.shape[1:]).mean(1)
        yield (
            f"{count} draws",
            {
                own.__name__: round(statistics.mean(own(mean, labels) for mean in means), 4)
                for own in MEASURES
            },
        )


def _fit(data: Data, settings: FitSettings, priors: ModelSettings | None = None) -> Posterior:
    return fit(
        [data.given],
        backbone(),
        scorer=data.scorer,
        model_settings=priors,
        settings=settings,
    )


@cache
def backbone() -> Backbone:
    """Load the backbone once."""
    return load_minilm()


def judge(posterior: Posterior, data: Data, seed: int, **how: Any) -> Found:
    """Measure the predictions of development rows, as by default unless told otherwise."""
    started = time.perf_counter()
    rows = data.judged.examples[:JUDGED]
    probabilities = posterior.predict(rows, seed=seed, **how).probabilities
    seconds = time.perf_counter() - started
    labels = [row.label for row in rows]
    temperature = fit_temperature(probabilities, labels)
    measures = {own.__name__: round(own(probabilities, labels), 4) for own in MEASURES}
    return {
        **measures,
        "confidence": round(float(probabilities.max(1).mean()), 4),
        "best temperature": round(temperature, 3),
        "nll with it": round(nll(apply_temperature(probabilities, temperature), labels), 4),
        "seconds": round(seconds, 1),
    }


STUDIES: dict[str, Callable[[Data, int], Iterator[tuple[str, Found]]]] = {
    "scales": scales,
    "noise": noise,
    "head": head,
    "weight": weight,
    "draws": draws,
}

if __name__ == "__main__":
    main()
