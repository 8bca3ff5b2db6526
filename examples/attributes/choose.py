"""How M2A's learning rate was chosen: by the NLL of FDU-MTL's dev rows.

    python examples/attributes/choose.py --data DATA

The published 2e-5 is for 30 epochs of BERT, and the comparison gives every method far fewer steps.
Fits the recipe at 100 rows a domain, seed 0, with the comparison's number of steps, at the
published rate and at the one that the other methods have. Test rows are not looked at.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from contenders import FOLDERS, load_minilm, m2a, read_given
from sets import load

from calibration import accuracy, nll

RATES = (2e-5, 1e-3)


def main() -> None:
    """Print what dev says of each rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, type=Path, help="folder that has fdu_mtl")
    arguments = parser.parse_args()
    given, _ = read_given("fdu-mtl", arguments.data, 100, 0, load_minilm())
    # No method learns from these rows, nor stops on them.
    dev = load("fdu-mtl", arguments.data / FOLDERS["fdu-mtl"], 0, 100).dev
    labels = np.array(dev.labels)
    for rate in RATES:
        started = time.perf_counter()
        probabilities = m2a(given, rate=rate).predict(dev.examples)
        print(
            f"{rate:g}: dev NLL {nll(probabilities, labels):.4f}, "
            f"accuracy {accuracy(probabilities, labels):.4f}, "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
