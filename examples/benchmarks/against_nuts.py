"""How far each posterior's predictions are from those of the exact posterior of few weights.

    python examples/benchmarks/against_nuts.py --data DATA --out RESULTS.json

DATA has the folder `classification`. The weights are the head's and LoRA-XS's in MiniLM's last
layer, learned from the first sentences of SST-2; all have the same prior, and the KL has weight 1,
so all look for one posterior. Two chains of NUTS stand for it: what is between them is what a
distance cannot tell from none. The distance is the total variation between predictions of 200
development sentences, in the mean: half the sum of the options' differences in probability.
"""

import argparse
from pathlib import Path

import numpy as np
from common import describe_run, read_lines, to_task, write_json
from timing import DEVICE

from bayes_lora import FitSettings, ModelSettings, Posterior, Task, fit, load_backbone
from bayes_lora.adapters import LoRAXS
from bayes_lora.backbone import Backbone
from bayes_lora.guides import GUIDES, NUTS, Family
from calibration import accuracy, ece, nll

LAST_LAYER = r"encoder\.layer\.5\.attention\.self\.(query|value)"
JUDGED, DRAWS = 200, 100
FAMILIES = ("map", "laplace", "mean-field", "low-rank", "ivon", "svgd")
LINEARISED = ("laplace", "mean-field", "low-rank")  # are asked both ways
BAYES = ModelSettings(kl_weight=1.0)  # with the priors that mean-field has by default


def main() -> None:
    """Fit all, and write how far they are from the first chain."""
    arguments = read_arguments()
    lines = arguments.data / "classification"
    train, judged = (
        to_task(split, read_lines(lines / f"stsa.binary.{split}")[:rows], [("", "0"), ("", "1")])
        for split, rows in (("train", arguments.rows), ("dev", JUDGED))
    )
    backbone = load_backbone("minilm", targets=LAST_LAYER, max_length=64).to(DEVICE)

    def fitted(family: Family, seed: int = 0) -> Posterior:
        settings = FitSettings(max_steps=arguments.steps, seed=seed)
        return fit_posterior(train, backbone, family, settings)

    chain = NUTS(samples=arguments.samples, warmup=arguments.samples)
    exact = ask(fitted(chain), judged)
    found = {"nuts": exact, "nuts, another chain": ask(fitted(chain, seed=1), judged)}
    for name in FAMILIES:
        posterior = fitted(GUIDES[name]())
        found[name] = ask(posterior, judged)
        if name in LINEARISED:
            found[f"{name}, linearised"] = ask(posterior, judged, linearised=True)
    results = describe_run() | {"device": DEVICE, "weights": weights(posterior)}
    for name, probabilities in found.items():
        results["results"][name] = row = figures(probabilities, exact, judged)
        print(f"{name:24}" + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    write_json(results, arguments.out)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=64, help="sentences to learn from")
    parser.add_argument("--steps", type=int, default=600, help="of each fit")
    parser.add_argument("--samples", type=int, default=150, help="of a chain, after as many")
    return parser.parse_args()


def fit_posterior(
    train: Task, backbone: Backbone, family: Family, settings: FitSettings
) -> Posterior:
    """Fit a family to the rows, under the prior that all have."""
    adapter = LoRAXS(rank=4)
    return fit(
        [train], backbone, adapter=adapter, guide=family, model_settings=BAYES, settings=settings
    )


def ask(posterior: Posterior, judged: Task, *, linearised: bool = False) -> np.ndarray:
    """Predict the judged rows, ``[n, 2]``."""
    how = {"linearised": True} if linearised else {"draws": DRAWS}
    return posterior.predict(judged.examples, **how).probabilities


def weights(posterior: Posterior) -> int:
    """Count what is random."""
    return sum(site.start.numel() for site in posterior.model.sites.values())


def figures(probabilities: np.ndarray, exact: np.ndarray, judged: Task) -> dict[str, float]:
    """Measure predictions, and how far they are from the exact ones."""
    labels = judged.labels
    return {
        "total variation": float(np.abs(probabilities - exact).sum(1).mean() / 2),
        "accuracy": accuracy(probabilities, labels),
        "nll": nll(probabilities, labels),
        "ece": ece(probabilities, labels),
    }


if __name__ == "__main__":
    main()
