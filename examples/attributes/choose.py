"""How the comparison's settings were chosen: by the NLL of dev rows.

    python examples/attributes/choose.py fdu-mtl --data DATA --size 100
    python examples/attributes/choose.py yelp --data DATA

For points, the rank of LoRA; for M2A's recipe, the learning rate (the published 2e-5 is for 30
epochs of BERT, and the comparison gives every method far fewer steps); for the mean-field
population, its rank, the weight of the prior, where its scales start and how far they move, and the
number of steps, as it does not stop early. Each is fitted with seed 0. Test rows are not looked at.
With a size FDU-MTL has dev rows that no method learns from or stops on. Elsewhere they are the rows
that who stops early holds back, and unless --only names others the mean-field population alone is
judged, fitted to the others.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from contenders import (
    FOLDERS,
    Given,
    Predict,
    m2a,
    mean_field,
    of_population,
    points,
    read_given,
)
from sets import load

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import load_minilm

from bayes_lora.adapters import LoRA
from bayes_lora.guides import MeanField
from calibration import accuracy, ece, nll

OWN_DEV = "fdu-mtl"  # the set with dev rows of its own


def ask_mean_field(given: Given, rank: int, kl_weight: float, share: float = 1.0) -> Predict:
    """Fit a population, without levels, with a share of the comparison's steps."""
    steps = round(share * given.steps)
    return of_population(mean_field(given, (), LoRA(rank), kl_weight, steps))


def ask_started_at(given: Given, scale: float) -> Predict:
    """Fit a population whose scales start elsewhere, in units of each factor's natural size."""
    return of_population(mean_field(given, (), guide=MeanField(scale)))


def ask_moving(given: Given, nats: float) -> Predict:
    """Fit a population, in all steps, whose log scales move so far at most."""
    rate = 2 * nats / given.steps  # it decays to zero
    return of_population(mean_field(given, (), steps=given.steps, scale_rate=rate))


def ask_points(given: Given, rank: int) -> Predict:
    """Fit one LoRA to everybody."""
    return points(given, LoRA(rank)).predict


def ask_m2a(given: Given, rate: float) -> Predict:
    """Fit the recipe."""
    return m2a(given, rate=rate).predict


CHOICES: dict[str, Callable[[Given], Predict]] = {
    **{f"points, rank {rank}": partial(ask_points, rank=rank) for rank in (8, 128)},
    **{f"m2a, learning rate {rate:g}": partial(ask_m2a, rate=rate) for rate in (2e-5, 1e-3)},
    **{
        f"mean-field, rank {rank}, KL weight {weight:g}": partial(
            ask_mean_field, rank=rank, kl_weight=weight
        )
        for rank, weight in ((8, 0.3), (32, 1.0), (128, 1.0), (128, 2.0))
    },
    **{
        f"mean-field, rank 128, KL weight 1, {share:g} of the steps": partial(
            ask_mean_field, rank=128, kl_weight=1.0, share=share
        )
        for share in (0.25, 0.5)
    },
    **{
        f"mean-field, rank 128, KL weight 1, scales from {scale:g}": partial(
            ask_started_at, scale=scale
        )
        for scale in (0.04, 0.015)
    },
    **{
        f"mean-field, rank 128, scales move by {nats:g}": partial(ask_moving, nats=nats)
        for nats in (1.0, 0.3, 0.1)
    },
}


def main() -> None:
    """Print what dev says of each choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("set", choices=list(FOLDERS))
    parser.add_argument(
        "--data", required=True, type=Path, help="folder that has the sets' folders"
    )
    parser.add_argument("--size", type=int, help="labelled rows of a domain (default: all)")
    parser.add_argument("--only", nargs="+", choices=list(CHOICES), metavar="CHOICE")
    arguments = parser.parse_args()
    given, _ = read_given(arguments.set, arguments.data, arguments.size, 0, load_minilm())
    dev, choices = given.dev, [name for name in CHOICES if name.startswith("mean-field")]
    if arguments.set == OWN_DEV and arguments.size:
        dev = load(OWN_DEV, arguments.data / FOLDERS[OWN_DEV], 0, arguments.size).dev
        choices = list(CHOICES)
    else:
        given = replace(given, labelled=given.train)
    labels = np.array(dev.labels)
    for name in arguments.only or choices:
        started = time.perf_counter()
        probabilities = CHOICES[name](given)(dev.examples)
        print(
            f"{name}: dev NLL {nll(probabilities, labels):.4f}, "
            f"accuracy {accuracy(probabilities, labels):.4f}, "
            f"ECE {ece(probabilities, labels):.4f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
