"""Sentiment in the 16 domains of FDU-MTL: ours, M2A with its ablations, and plain LoRA.

    python examples/fdu_mtl_m2a/run.py --data DATA --out RESULTS

DATA has the folder `fdu_mtl` with the files `<domain>.task.train` and `<domain>.task.test`. An
interrupted run goes on where it was. What is compared: examples/attributes/contenders.py; further
options: examples/attributes/compare.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "attributes"))
from compare import main

if __name__ == "__main__":
    main("fdu-mtl")
