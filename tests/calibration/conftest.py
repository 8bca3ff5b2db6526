import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240517)


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSON lines; bytes and strings are written as they are."""

    def write(rows: list[Any], name: str = "predictions.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, bytes | str) else json.dumps(row) for row in rows]
        path.write_bytes(
            b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines)
        )
        return path

    return write


@pytest.fixture
def make_rows(rng: np.random.Generator) -> Callable[..., list[dict[str, Any]]]:
    """Rows of a calibrated predictor, as the command line of bayes-lora writes them."""

    def make(n: int = 60, options: int = 3, **extra: Any) -> list[dict[str, Any]]:
        names = [f"option {k}" for k in range(options)]
        rows = []
        for i in range(n):
            p = rng.dirichlet(np.ones(options))
            rows.append(
                {
                    "input": f"question {i}",
                    "options": names,
                    "probabilities": p.tolist(),
                    "label": names[rng.choice(options, p=p)],
                    "num_draws": 10,
                    **extra,
                }
            )
        return rows

    return make
