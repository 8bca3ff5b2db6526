"""How a fit is run, apart from what it computes: what it shows, and where its state is kept."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class StateFolder:
    """A folder for the Trainer's checkpoints.

    Args:
        path: Where it is.
        kept: Whether a fit that is interrupted goes on from it; else it is gone with the fit.
    """

    path: Path
    kept: bool


@dataclass(frozen=True)
class Running:
    """How a fit is run.

    Args:
        label: What stands before its progress bars.
        progress: Whether to show these, on stderr.
        folder: Of its state, to go on from after an interruption; None: none is kept.
    """

    label: str = "fit"
    progress: bool = False
    folder: Path | None = None

    def part(self, name: str) -> "Running":
        """Say how one of the fit's parts is run."""
        return replace(self, label=f"{self.label}: {name}")

    @contextmanager
    def state(self) -> Iterator[StateFolder]:
        """Give a folder for the state of this fit, or of this part of it."""
        if self.folder is not None:
            yield StateFolder(self.folder / re.sub(r"\W+", "-", self.label), kept=True)
            return
        with tempfile.TemporaryDirectory(prefix="bayes-lora-") as folder:
            yield StateFolder(Path(folder), kept=False)


RUNNING = Running()  # silently, and keeping nothing
