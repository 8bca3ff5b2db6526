"""Write a set of sets.py as jsonl files, which `bayes-lora` reads with the attribute columns.

    python examples/attributes/convert.py fdu-mtl FOLDER --out DIR
    bayes-lora fit --data DIR/train.jsonl --attributes domain

Writes DIR/train.jsonl, DIR/dev.jsonl and DIR/test.jsonl: `text`, `label`, `options` and the
attributes. FOLDER has the published files; --size N takes N rows of train, of each domain or
author, drawn with --seed.
"""

import argparse
import json
import sys
from pathlib import Path

from sets import SETS, load

from bayes_lora.data import Example, Task
from bayes_lora.errors import BayesLoraError
from bayes_lora.files import atomic_text


def main() -> None:
    """Convert one set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, help="rows of train, of each level; default: all")
    args = parser.parse_args()
    try:
        split = load(args.set, args.folder, args.seed, args.size)
        for task in (split.train, split.dev, split.test):
            write_jsonl(task, args.out / f"{task.split}.jsonl")
            print(f"{task.split}.jsonl: {len(task)} rows, attributes {', '.join(task.attributes)}")
    except BayesLoraError as error:
        parser.exit(2, f"{error}\n")
    for warning in dict.fromkeys((*split.train.warnings, *split.dev.warnings)):
        print(f"warning: {warning}", file=sys.stderr)


def write_jsonl(task: Task, path: Path) -> None:
    """Write texts, labels, options and attributes, whole or not at all.

    The options are written because a small file may lack a label that another has.

    Raises:
        ConfigError: The file cannot be written there.
    """
    with atomic_text(path) as file:
        for example in task.examples:
            file.write(json.dumps(_fields(example)) + "\n")


def _fields(example: Example) -> dict[str, object]:
    label = None if example.label is None else example.options[example.label]
    own = {"text": example.input, "label": label, "options": example.options}
    return {**own, **example.attributes}


if __name__ == "__main__":
    main()
