"""ABMLL and what it has to beat on UnifiedQA's sets: three to learn from, the fourth to answer.

    python examples/unifiedqa_abmll/run.py --data DATA_ROOT --out RESULTS

DATA_ROOT has the folder `unifiedqa`, with a folder a set. Two of the other three are trained on,
one is for choosing settings. An interrupted run goes on where it was. What is compared:
examples/meta_learning/methods.py.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "meta_learning"))
from compare import main

if __name__ == "__main__":
    main(("unifiedqa",))
