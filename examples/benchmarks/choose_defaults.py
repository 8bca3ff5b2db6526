"""How the mean-field defaults were chosen: on development rows, never on a test file.

For each setting and each small training set, fits mean-field with the package's own `fit` and
measures accuracy, NLL and ECE on development rows. The rows are

    SST-2   first 500 of stsa.binary.train       dev: rows 1,000 to 1,600 of the same file
    Subj    200 of subj.all, shuffled            dev: 600 others
    TREC    500 of TREC.train.all, shuffled      dev: 600 others

None of them is in a test file. `mle-oracle` is maximum likelihood stopped at the epoch that is
best on those same development rows: a bound that no honest early stopping reaches.

    python examples/benchmarks/choose_defaults.py --data FOLDER --out RESULTS.json

The frozen backbone is in bfloat16 where the machine multiplies it, for speed. FOLDER holds the
three files. Resumable: settings already in RESULTS.json are not run again.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import describe_run, load_minilm, read_lines, to_task, write_json

from bayes_lora import FitSettings, LearnedNormal, ModelSettings, Normal, fit
from bayes_lora.data import Task
from bayes_lora.inference.methods import DEFAULTS
from calibration import accuracy, ece, nll

DEFAULT = DEFAULTS["mean-field"]
SETTINGS: dict[str, ModelSettings] = {
    "default": DEFAULT,
    "KL weight 1": replace(DEFAULT, kl_weight=1.0),
    "KL weight 0.1": replace(DEFAULT, kl_weight=0.1),
    "prior of B 0.3": replace(DEFAULT, update_prior=Normal(0.3)),
    "prior of the head 1": replace(DEFAULT, head_prior=Normal(1.0)),
    "head scale learned": replace(DEFAULT, head_prior=LearnedNormal(1.5)),
    "all scales learned": ModelSettings(
        LearnedNormal(1.0), LearnedNormal(0.3), LearnedNormal(1.5), kl_weight=0.3
    ),
}


def load_tasks(folder: Path) -> dict[str, tuple[Task, Task]]:
    sst2 = read_lines(folder / "stsa.binary.train")
    parts = {"SST-2": (sst2[:500], sst2[1000:1600])}
    for name, file, size in (("Subj", "subj.all", 200), ("TREC", "TREC.train.all", 500)):
        rows = read_lines(folder / file)
        random.Random(0).shuffle(rows)
        parts[name] = (rows[:size], rows[2000:2600])
    return {
        name: (to_task(name, train, train + dev), to_task(f"{name} dev", dev, train + dev))
        for name, (train, dev) in parts.items()
    }


def run(train: Task, dev: Task, setting: str) -> dict[str, Any]:
    started = time.perf_counter()
    oracle = setting == "mle-oracle"
    posterior = fit(
        [train],
        load_minilm(),
        guide="mle" if oracle else "mean-field",
        model_settings=None if oracle else SETTINGS[setting],
        settings=FitSettings(seed=0),
        dev=[dev] if oracle else [],
    )
    seconds = time.perf_counter() - started
    predictions = posterior.predict(dev.examples)
    scores = {m.__name__: m(predictions.probabilities, dev.labels) for m in (accuracy, nll, ece)}
    return {**scores, "fit_seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else describe_run()
    for name, (train, dev) in load_tasks(arguments.data).items():
        for setting in ["mle-oracle", *SETTINGS]:
            key = f"{name} | {setting}"
            used = repr(SETTINGS.get(setting, DEFAULTS["mle"]))
            if results["results"].get(key, {}).get("settings") != used:
                results["results"][key] = run(train, dev, setting) | {"settings": used}
                write_json(results, arguments.out)
                print(key, results["results"][key], flush=True)


if __name__ == "__main__":
    main()
