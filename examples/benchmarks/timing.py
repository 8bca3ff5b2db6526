"""Time things that take turns, so that a machine that slows down slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Step = Callable[[], object]


@dataclass
class Times:
    """Seconds of something that was done several times."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Do it once more, until the device is done with it."""
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    @property
    def median(self) -> float:
        """Of wall time."""
        return statistics.median(self.wall)

    def beside(self, other: "Times") -> dict[str, float]:
        """Compare with what took turns with it."""
        found = {}
        for name, own, base in (("wall", self.wall, other.wall), ("cpu", self.cpu, other.cpu)):
            found[name] = statistics.median(own) / statistics.median(base)
            found[f"{name}_paired"] = statistics.median(
                a / b for a, b in zip(own, base, strict=True)
            )
        return found


def in_turns(work: Mapping[str, Step], rounds: int, warm_up: int = 2) -> dict[str, Times]:
    """Time steps that take turns."""
    times = {name: Times() for name in work}
    for _ in range(warm_up):
        for step in work.values():
            step()
    for _ in range(rounds):
        for name, step in work.items():
            times[name].take(step)
    return times
