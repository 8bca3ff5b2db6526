"""How well does a backbone answer before anything is fitted? The floor of every comparison.

    python examples/zero_shot/run.py --crossfit DIR --unifiedqa DIR --out OUT [--model minilm]

Scores the whole test files of three suites:

    class_to_class   CrossFit, the test tasks of DIR/config/class_to_class.json
    qa_to_qa         CrossFit, the test tasks of DIR/config/qa_to_qa.json
    unifiedqa        ARC-Easy, OpenBookQA, CommonsenseQA, MCTest

`--crossfit` names a folder with `data/` (a folder a task) and `config/` (the partitions),
`--unifiedqa` one with a folder a task. Tasks without data or test file are listed and skipped.
Writes OUT/<suite>.jsonl (predictions), OUT/report/ and OUT/results.json. Resumable: a suite that
has its predictions file is not run again.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from common import describe_run, write_json

from bayes_lora import Posterior, load_backbone, read
from bayes_lora.data import TaskSet
from bayes_lora.output import write_predictions
from bayes_lora.scorers import default_scorer, keep_scorable
from calibration import read_predictions, write_report

SUITES = ("class_to_class", "qa_to_qa", "unifiedqa")
METRICS = ("n", "accuracy", "nll", "ece")


def read_suite(suite: str, crossfit: Path, unifiedqa: Path) -> TaskSet:
    if suite == "unifiedqa":
        return read(f"unifiedqa:{unifiedqa}", split="test")
    partition = crossfit / "config" / f"{suite}.json"
    return read(f"crossfit:{crossfit / 'data'}", split="test", partition=partition, part="test")


def predict_suite(suite: str, posterior: Posterior, tasks: TaskSet, file: Path) -> dict[str, Any]:
    tasks = keep_scorable(tasks, posterior.config.scorer, posterior.model.backbone)
    started = time.perf_counter()
    predictions = posterior.predict([e for task in tasks for e in task.examples], draws=0)
    write_predictions(tasks, predictions, file)
    print(f"{suite}: {sum(map(len, tasks))} rows of {len(tasks)} tasks", flush=True)
    left_out = [*tasks.warnings, *(f"{t.name}: {w}" for t in tasks for w in t.warnings)]
    return {"seconds": round(time.perf_counter() - started, 1), "left_out_or_odd": left_out}


def guessing(file: Path) -> dict[str, dict[str, float]]:
    """Accuracy of guessing, and of always answering with the commonest label, by task."""
    rows: dict[str, list[Any]] = {}
    for row in read_predictions(file).rows:
        rows.setdefault(row.task or "", []).append(row)
    out = {}
    for task, own in rows.items():
        out[task] = {"chance": sum(1 / len(row.options) for row in own) / len(own)}
        if len({row.options for row in own}) == 1:
            labels = [row.label for row in own]
            out[task]["majority"] = max(labels.count(label) for label in set(labels)) / len(own)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crossfit", type=Path, required=True)
    parser.add_argument("--unifiedqa", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results_file = arguments.out / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else describe_run()
    backbone = load_backbone(arguments.model)
    posterior = Posterior.pretrained(backbone, default_scorer(backbone, (), zero_shot=True))
    files = [arguments.out / f"{suite}.jsonl" for suite in SUITES]
    for suite, file in zip(SUITES, files, strict=True):
        if not file.exists():
            tasks = read_suite(suite, arguments.crossfit, arguments.unifiedqa)
            results["results"][suite] = predict_suite(suite, posterior, tasks, file)
            write_json(results, results_file)
    write_report(files, arguments.out / "report", title=f"Zero-shot: {arguments.model}")
    report = json.loads((arguments.out / "report" / "report.json").read_text())
    for suite, file, entry in zip(SUITES, files, report["predictions"], strict=True):
        floor = guessing(file)
        results["results"][suite]["tasks"] = {
            own["task"]: {m: own[m] for m in METRICS} | floor[own["task"]] for own in entry["tasks"]
        }
        results["results"][suite]["macro"] = {m: entry["macro"][m] for m in METRICS[1:]}
    write_json(results, results_file)
    print(f"Report written to {arguments.out / 'report' / 'report.html'}")


if __name__ == "__main__":
    main()
