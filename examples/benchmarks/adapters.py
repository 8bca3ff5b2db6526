"""What a training step costs with each adapter beside PEFT's LoRA, and how many parameters it has.

    python examples/benchmarks/adapters.py --out RESULTS.json [--steps 15]

The work is train_step.py's: MiniLM, float32, query and value, a two-class head, 32 x 64 tokens,
AdamW, no dropout; ours are mean-field posteriors with 8 draws in a step. Adapters have the
defaults. Steps of all take turns, so a machine that slows down slows all; figures are medians.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from common import describe_run, write_json
from timing import DEVICE, Step, in_turns
from train_step import batch, ours, peft_lora

from bayes_lora.adapters import ADAPTERS, PeftTensors
from bayes_lora.backbone import load_backbone
from bayes_lora.budget import parameters

DRAWS, WARM_UP = 8, 3
PEFT = "PEFT's LoRA"
OURS = {name: kind() for name, kind in ADAPTERS.items() if kind is not PeftTensors}


def make_step(name: str) -> Step:
    """Make a function that takes one optimizer step."""
    inputs, labels = batch()
    if name == PEFT:
        module = peft_lora("minilm")
    else:
        module, inputs = ours("minilm", DRAWS, inputs["input_ids"], OURS[name])
    learned = [value for value in module.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)

    def step() -> None:
        module(labels=labels, **inputs)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    work = {name: make_step(name) for name in (PEFT, *OURS)}
    times = in_turns(work, arguments.steps, WARM_UP)
    results = describe_run() | {"device": DEVICE, "draws": DRAWS}
    base, backbone = times[PEFT].median, load_backbone("minilm")
    for name, own in times.items():
        results["results"][name] = {
            "adapter": repr(OURS[name]) if name in OURS else "LoraConfig(r=8)",
            "parameters": parameters(OURS[name if name in OURS else "lora"], backbone),
            "median_seconds": own.median,
            "time_over_peft": own.median / base,
            "seconds": own.wall,
        }
        row = results["results"][name]
        print(f"{name:14} {row['parameters']:9,} parameters  x {row['time_over_peft']:.2f}")
    write_json(results, arguments.out)


if __name__ == "__main__":
    main()
