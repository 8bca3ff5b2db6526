"""What a Bayesian training step costs beside PEFT's LoRA: time and peak memory, in one run.

    python examples/benchmarks/train_step.py --out RESULTS.json [--steps 25]

Same work on both sides: MiniLM, float32, rank 8 on query and value, a two-class head, a batch of
32 x 64 tokens, AdamW, no dropout. Steps of all variants take turns, so a machine that slows down
slows all of them; the figures are medians. Peak memory is the resident set of a process of its
own for each variant. With a CUDA device both run there, and memory is the allocator's peak.
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).parent))
from common import describe_run, write_json
from timing import DEVICE, Step, in_turns

from bayes_lora import LoRA, Task, load_backbone, unlabelled
from bayes_lora.adapters import Adapter
from bayes_lora.guides import MeanField
from bayes_lora.inference.fit import make_config
from bayes_lora.inference.methods import DEFAULTS
from bayes_lora.inference.svi import SVIModule
from bayes_lora.scorers import Row

ROWS, TOKENS, RANK, MEMORY_STEPS = 32, 64, 8, 6
VARIANTS = {"peft-lora": 0, "mean-field G=1": 1, "mean-field G=8": 8, "mean-field G=32": 32}


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(1000, 20_000, (ROWS, TOKENS), device=DEVICE)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs, torch.randint(0, 2, (ROWS,), device=DEVICE)


def make_step(variant: str, backbone: str) -> Step:
    draws = VARIANTS[variant]
    inputs, labels = batch()
    if draws:
        module, inputs = ours(backbone, draws, inputs["input_ids"])
    else:
        module = peft_lora(backbone)
    parameters = [value for value in module.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    def step() -> None:
        loss = module(labels=labels, **inputs)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peft_lora(backbone: str) -> torch.nn.Module:
    folder = load_backbone(backbone).model.name_or_path
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    config = LoraConfig(
        task_type="SEQ_CLS", r=RANK, lora_alpha=2 * RANK, target_modules=["query", "value"]
    )
    return get_peft_model(model, config).to(DEVICE).eval()  # eval: no dropout, as ours


def ours(
    backbone: str, draws: int, ids: torch.Tensor, adapter: Adapter | None = None
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    loaded = load_backbone(backbone).to(DEVICE)
    task = Task("rows", tuple(unlabelled(["a row"] * 500, ("a", "b"))))
    config = make_config(
        loaded,
        [task],
        guide=MeanField(),
        scorer="class-head",
        adapter=adapter or LoRA(RANK),
        chosen=DEFAULTS["mean-field"],
    )
    model, guide = config.build(loaded)
    model.share_rows = True
    rows = [Row(tuple(row)) for row in ids.tolist()]
    return SVIModule(model, guide, draws), config.scorer.collate(loaded, rows, groups=draws)


def peak_memory(variant: str, backbone: str) -> float:
    """Run a few steps in this process and return its peak, in MiB."""
    step = make_step(variant, backbone)
    for _ in range(MEMORY_STEPS):
        step()
    if DEVICE == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure_memory(variant: str, backbone: str) -> float:
    """Return a variant's peak memory in a process of its own, in MiB."""
    command = [sys.executable, __file__, "--memory-of", variant, "--out", os.devnull]
    output = subprocess.check_output([*command, "--backbone", backbone], text=True)
    return float(output.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(peak_memory(arguments.memory_of, arguments.backbone))
        return
    results = describe_run() | {"rows": ROWS, "tokens": TOKENS, "rank": RANK, "device": DEVICE}
    # Memory first: a process starts with its parent's peak for its own.
    peaks = {variant: measure_memory(variant, arguments.backbone) for variant in VARIANTS}
    work = {variant: make_step(variant, arguments.backbone) for variant in VARIANTS}
    times = in_turns(work, arguments.steps, warm_up=3)
    base = times["peft-lora"]
    for variant, own in times.items():
        results["results"][variant] = {
            "median_seconds": own.median,
            "time_over_peft": own.beside(base)["wall"],
            "paired_ratio": own.beside(base)["wall_paired"],
            "seconds": own.wall,
            "peak_mib": peaks[variant],
            "memory_over_peft": peaks[variant] / peaks["peft-lora"],
        }
    write_json(results, arguments.out)
    for variant, row in results["results"].items():
        print(
            f"{variant:16} {row['median_seconds']:.3f} s  x {row['time_over_peft']:.3f}"
            f"  paired x {row['paired_ratio']:.3f}  memory x {row['memory_over_peft']:.3f}"
        )


if __name__ == "__main__":
    main()
