"""Partition files: which tasks of a collection are for training and which for testing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bayes_lora.data.records import load_json, read_text
from bayes_lora.data.wording import listed
from bayes_lora.errors import ConfigError, InputDataError


@dataclass(frozen=True)
class Partition:
    """The parts of a collection of tasks.

    Args:
        name: What messages call the partition.
        parts: The names of the tasks of every part, in the file's order.
    """

    name: str
    parts: Mapping[str, tuple[str, ...]]

    def tasks(self, part: str | None = None) -> dict[str, tuple[str, ...]]:
        """The names of the tasks in a part, or in all, each with the parts it is in.

        Raises:
            ConfigError: There is no such part.
        """
        if part is not None and part not in self.parts:
            raise ConfigError(
                f"{self.name}: there is no part {part!r}; the parts are {listed(list(self.parts))}"
            )
        chosen = [part] if part is not None else list(self.parts)
        names = dict.fromkeys(name for key in chosen for name in self.parts[key])
        return {name: tuple(key for key in self.parts if name in self.parts[key]) for name in names}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which tasks are in two parts, for each two parts that should share none."""
        keys = list(self.parts)
        pairs = [(one, other) for n, one in enumerate(keys) for other in keys[n + 1 :]]
        found = []
        for one, other in pairs:
            shared = [name for name in self.parts[one] if name in self.parts[other]]
            if shared and not self._within(one, other) and not self._within(other, one):
                found.append(
                    f"{self.name}: in part {one!r} and in part {other!r}: {', '.join(shared)}"
                )
        return tuple(found)

    def check_leaks(self, train: str = "train", test: str = "test") -> None:
        """Check that no task to train on is one to test on.

        Raises:
            ConfigError: There is no such part.
            InputDataError: A task is in both.
        """
        tested = self.tasks(test)
        shared = [name for name in self.tasks(train) if name in tested]
        if shared:
            raise InputDataError(
                f"{self.name}: in part {train!r} and in part {test!r}: {', '.join(shared)}: a leak "
                "between partitions; take each task out of one of them"
            )

    def _within(self, one: str, other: str) -> bool:
        """Whether a part is meant as a selection of another: `unseen_domain_test` of `test`."""
        return one.endswith(f"_{other}") and set(self.parts[one]) <= set(self.parts[other])


def read_partition(path: Path | str) -> Partition:
    """Read a partition file: JSON such as {"train": ["task", ..], "test": [..]}.

    Raises:
        InputDataError: The file cannot be read or is something else.
    """
    path = Path(path)
    content = load_json(read_text(path), path.name)
    if not isinstance(content, tuple) or not content:
        raise InputDataError(
            f'{path.name}: not a partition; give a JSON object such as {{"train": [..], "test": '
            "[..]}, lists of task names"
        )
    twice = [key for key, count in Counter(key for key, _ in content).items() if count > 1]
    if twice:
        raise InputDataError(f"{path.name}: part {twice[0]!r} occurs twice; join the two")
    return Partition(path.name, {key: _names(key, value, path.name) for key, value in content})


def _names(part: str, value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputDataError(f"{name}: part {part!r} is not a list of task names; give one")
    return tuple(dict.fromkeys(value))
