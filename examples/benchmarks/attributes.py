"""What it costs that users and items have weights of their own: time and memory, in one run.

    python examples/benchmarks/attributes.py --out RESULTS.json [--rounds 12]

MiniLM, float32, LoRA of rank 8 on query and value, 32 rows of 64 random tokens in a batch; every
row with the KronA of its own user and of its own item, out of 5,000 each. Beside it PEFT's LoRA
and our own without attributes. Whatever is compared takes turns, so a machine that slows down
slows all of it; where several programs share the processor, CPU time says more than wall time.
Both are given, as ratios of medians, and as medians of each turn's ratios.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from common import describe_run, write_json
from timing import DEVICE, Step, Times, in_turns
from train_step import RANK, ROWS, TOKENS, make_step

from bayes_lora import LoRA, Task, load_backbone, unlabelled
from bayes_lora.adapters import Adapter, KronA
from bayes_lora.data import Levels
from bayes_lora.guides import Guide, LevelNormals, LevelPoints
from bayes_lora.inference.attributes import AttributeSettings
from bayes_lora.inference.fit import make_config
from bayes_lora.inference.levels import fit_levels
from bayes_lora.inference.methods import DEFAULTS, family_of
from bayes_lora.inference.mixed_model import Grouped, fit_mixed_model
from bayes_lora.inference.optimizer import make_optimizer
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import SVIModule
from bayes_lora.level_effect import LevelEffect
from bayes_lora.model import BayesianModel
from bayes_lora.predict import predict
from bayes_lora.scorers import LabelledRows, Row

ATTRIBUTES = ("user", "item")
FULL, LOW = KronA(), KronA(rank=1)
LEVELS, ROWS_OF_LEVEL = 5000, 4
COUNTS = (10, 1_000, 10_000, 100_000)
STAGE_ROWS, STAGE_LEVELS = 1000, 200
SIMULATED_ROWS, COORDINATES = 10_000, (4, 16)
PREDICTED_ROWS, DRAWS = 32, 10


def compared(times: Mapping[str, Times], bases: Sequence[str]) -> dict[str, Any]:
    """Describe times, and each one's ratio to some of them."""
    return {
        name: {"median_seconds": own.median}
        | {f"over {base}": own.beside(times[base]) for base in bases}
        | {"seconds": own.wall, "cpu_seconds": own.cpu}
        for name, own in times.items()
    }


def build(
    guide: str, adapter: Adapter | None, number: int = LEVELS, options: int = 2
) -> tuple[BayesianModel, Guide]:
    """Make a model of generated rows with so many users and items; no adapter: without these."""
    backbone = load_backbone("minilm").to(DEVICE)
    labels = tuple(f"option {i}" for i in range(options))
    config = make_config(
        backbone,
        [Task("rows", tuple(unlabelled(["a row"], labels)))],
        guide=family_of(guide),
        scorer="class-head",
        adapter=LoRA(RANK),
        chosen=DEFAULTS[guide],
        views=AttributeSettings(ATTRIBUTES if adapter else (), adapter or FULL),
    )
    levels = {name: make_levels(own.attribute, number) for name, own in config.levels.items()}
    return replace(config, num_rows=number * ROWS_OF_LEVEL, levels=levels).build(backbone)


def make_levels(attribute: str, number: int) -> Levels:
    """Make levels of equally many rows."""
    return Levels(attribute, tuple(map(str, range(number))), (ROWS_OF_LEVEL,) * number)


def make_rows(count: int, levels: Tensor | None = None) -> list[Row]:
    """Make rows of random tokens, with their levels ``[attributes, count]``."""
    ids = torch.randint(1000, 20_000, (count, TOKENS), generator=torch.Generator().manual_seed(0))
    own = [()] * count if levels is None else map(tuple, levels.T.tolist())
    return [Row(tuple(row), levels=level) for row, level in zip(ids.tolist(), own, strict=True)]


def make_training_step(
    model: BayesianModel, guide: Guide, *, levels: bool, draws: int = 1, below: int = LEVELS
) -> Step:
    """Make a training step, of other levels every time, as a fit's are."""
    model.share_rows = True
    module = SVIModule(model, guide, draws, levels)
    batch = model.scorer.collate(model.backbone, make_rows(ROWS), groups=draws)
    labels = torch.arange(ROWS, device=DEVICE) % 2
    optimizer = make_optimizer(model, guide, FitSettings(), steps=150)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        present = [torch.randperm(below, generator=generator)[:ROWS] for _ in ATTRIBUTES]
        own = torch.stack(present).to(DEVICE) if levels else None
        module(labels=labels, levels=own, **batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training_steps(rounds: int) -> dict[str, Any]:
    """Compare training steps with and without attributes, and PEFT's."""
    draws = FitSettings().draws
    work = {
        "peft-lora": make_step("peft-lora", "minilm"),
        "lora": make_training_step(*build("mle", None), levels=False),
        "lora + KronA": make_training_step(*build("mle", FULL), levels=True),
        "lora + KronA(rank=1)": make_training_step(*build("mle", LOW), levels=True),
        "mean-field": make_training_step(*build("mean-field", None), levels=False, draws=draws),
    }
    return compared(in_turns(work, rounds), ("peft-lora", "lora"))


def steps_by_levels(rounds: int) -> dict[str, Any]:
    """Compare steps with few levels and with many, of which a batch has 32 in either case."""
    few, many = "100 levels", "100,000 levels"
    work = {
        name: make_training_step(*build("mle", LOW, number), levels=True, below=number)
        for name, number in ((few, 100), (many, 100_000))
    }
    return compared(in_turns(work, rounds), (few,))


def untouched(number: int = 1000, steps: int = 5) -> dict[str, Any]:
    """Say which rows of a table and its moments are other than zero after some steps."""
    model, guide = build("mle", LOW, number)
    step = make_training_step(model, guide, levels=True, below=number // 2)
    for _ in range(steps):
        step()
    found = {}
    for name, table in guide.by_level.items():
        assert isinstance(table, LevelPoints)
        assert table._moments is not None
        *moments, times = table._moments
        present = times[:, 0] > 0
        moved = {"values": table.loc, "first moments": moments[0], "second moments": moments[1]}
        found[name] = {"levels": number, "present in a batch": int(present.sum())} | {
            f"{what} of absent levels that are not 0": int(value[~present].count_nonzero())
            for what, value in moved.items()
        }
    return found


def table_bytes() -> dict[str, Any]:
    """Count what the tables of one attribute take, for points and for a posterior."""
    groups = load_backbone("minilm").groups
    found: dict[str, Any] = {}
    cases: list[tuple[str, Adapter, int | None]] = [("mle", FULL, None), ("mle", LOW, None)]
    cases += [("mean-field", FULL, count) for count in (1, 4, 16, 64)]
    for guide, adapter, coordinates in cases:
        effect = DEFAULTS[guide].effect(adapter, ATTRIBUTES[0])
        sizes = {}
        for number in COUNTS:
            with torch.device("meta"):  # counted, and not allocated
                levels = make_levels(ATTRIBUTES[0], number)
                own = LevelEffect(effect, groups, levels, {}, coordinates)
                sizes[str(number)] = bytes_of(own)
        named = f"{guide}, {adapter}" + (f", {coordinates} coordinates" if coordinates else "")
        found[named] = {"bytes": sizes, "bytes_per_level": sizes[str(COUNTS[0])] / COUNTS[0]}
    return found


def bytes_of(effect: LevelEffect) -> int:
    """Count the bytes of a posterior's table, and of a point's table and its moments."""
    table = LevelNormals(effect) if effect.pooled else LevelPoints(effect)
    tensors = list(table.buffers())
    if isinstance(table, LevelPoints):
        tensors += table._new_moments()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def levels_stage(options: int) -> dict[str, Any]:
    """Compare fitting the levels, a row, with a training step, a row; the step comes first."""
    model, guide = build("mean-field", FULL, STAGE_LEVELS, options)
    step = make_training_step(model, guide, levels=False, draws=FitSettings().draws)
    times = in_turns({"step": step}, 8)["step"]  # and a head that is not zero
    model.share_rows = False
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(STAGE_LEVELS, (len(ATTRIBUTES), STAGE_ROWS), generator=generator)
    noise = torch.randint(2, (STAGE_ROWS,), generator=generator)
    labels = (levels[0] % 2 + noise).clamp(max=options - 1)
    rows = LabelledRows(make_rows(STAGE_ROWS, levels), labels.tolist())
    stage = Times()
    stage.take(lambda: fit_levels(model, guide, rows, seed=0))
    times.take(step)
    over = {
        name: statistics.median(own) / STAGE_ROWS / (statistics.median(base) / ROWS)
        for name, own, base in (("wall", stage.wall, times.wall), ("cpu", stage.cpu, times.cpu))
    }
    coordinates = {name: effect.width for name, effect in model.by_level.items()}
    return {
        "rows": STAGE_ROWS,
        "coordinates": coordinates,
        "seconds": stage.wall[0],
        "a row over a step's row": over,
    }


def mixed_model(number: int, coordinates: int) -> dict[str, Any]:
    """Time the mixed model of simulated features, with so many users and items."""
    generator = torch.Generator().manual_seed(0)
    shape = torch.full((coordinates,), coordinates**-0.5)
    logits = torch.zeros(SIMULATED_ROWS, 2)
    grouped = []
    for _ in ATTRIBUTES:
        features = torch.randn(SIMULATED_ROWS, 2, coordinates, generator=generator)
        features[:, 0] = 0.0
        levels = torch.randint(number, (SIMULATED_ROWS,), generator=generator)
        own = torch.randn(number, coordinates, generator=generator) * shape
        logits += (features * own[levels].unsqueeze(1)).sum(2)
        grouped.append(Grouped(features, levels, number, shape, 1.0))
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    times = Times()
    times.take(lambda: fit_mixed_model(torch.zeros_like(logits), labels, grouped))
    return {
        "rows": SIMULATED_ROWS,
        "seconds": times.wall[0],
        "cpu_seconds": times.cpu[0],
        "milliseconds a row": times.cpu[0] / SIMULATED_ROWS * 1e3,
    }


def make_prediction(adapter: Adapter | None) -> Step:
    """Make a prediction, every row under every draw with weights of its own levels."""
    model, _ = build("mean-field", adapter)
    generator = torch.Generator().manual_seed(0)
    draws = {
        name: torch.randn(DRAWS, *site.shape, generator=generator).to(DEVICE) * site.unit
        for name, site in model.sites.items()
    }
    tables = {}
    for name, effect in model.by_level.items():
        effect.keep(COORDINATES[0])
        effect.directions.normal_()
        tables[name] = torch.randn(DRAWS, PREDICTED_ROWS, effect.width).to(DEVICE) / 100
    places = torch.arange(PREDICTED_ROWS).expand(len(tables), -1) if tables else None
    rows = make_rows(PREDICTED_ROWS, places)

    def step() -> None:
        predict(model, draws, rows, levels=tables)

    return step


def prediction(rounds: int) -> dict[str, Any]:
    """Compare predicting with and without levels."""
    adapters = {"lora": None, "lora + KronA": FULL, "lora + KronA(rank=1)": LOW}
    work = {name: make_prediction(adapter) for name, adapter in adapters.items()}
    return compared(in_turns(work, rounds, warm_up=1), ("lora",))


def measure(rounds: int) -> dict[str, Any]:
    """Measure everything."""
    torch.manual_seed(0)
    return {
        "training step": training_steps(rounds),
        "step by levels": steps_by_levels(rounds),
        "levels absent from all batches": untouched(),
        "bytes of an attribute": table_bytes(),
        "levels stage": {f"{count} options": levels_stage(count) for count in (2, 5)},
        "mixed model": {
            f"{number} levels, {count} coordinates": mixed_model(number, count)
            for number in COUNTS[:3]
            for count in COORDINATES
        },
        "prediction": prediction(max(rounds // 4, 1)),
    }


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    results = describe_run() | {"device": DEVICE, "rows": ROWS, "tokens": TOKENS, "rank": RANK}
    results["results"] = measure(arguments.rounds)
    write_json(results, arguments.out)
    for part, rows in results["results"].items():
        for name, row in rows.items():
            print(f"{part}: {name}", {k: v for k, v in row.items() if "seconds" not in k})


if __name__ == "__main__":
    main()
