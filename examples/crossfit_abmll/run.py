"""ABMLL and what it has to beat on CrossFit: classification tasks, and questions with choices.

    python examples/crossfit_abmll/run.py --data DATA_ROOT --out RESULTS

DATA_ROOT has the folder `crossfit`, with `data/` (a folder a task) and `config/` (the partitions).
An interrupted run goes on where it was. What is compared: examples/meta_learning/methods.py.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "meta_learning"))
from compare import main

if __name__ == "__main__":
    main(("class_to_class", "multiple_choice"))
