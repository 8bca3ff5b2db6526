"""A task: texts, the options each can be answered with, and which option is right."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from bayes_lora.data.wording import listed
from bayes_lora.errors import InputDataError


class Kind(StrEnum):
    """Whether all examples of a task share one set of options, or each brings its own."""

    FIXED_LABELS = "fixed labels"
    MULTIPLE_CHOICE = "multiple choice"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One text with its options.

    Args:
        input: What the model reads.
        options: The answers to choose from, in the order the label counts them.
        label: Position of the right answer in `options`; None where it is not known.
        attributes: What else the file says of this row, by column; not read by a model.
        where: Where the row stands, as error messages say it: "reviews.csv, row 12".
    """

    input: str
    options: tuple[str, ...]
    label: int | None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    where: str


def unlabelled(texts: Sequence[str], options: Sequence[str]) -> list[Example]:
    """Make examples without labels, to predict on.

    Args:
        texts: What the model reads, one text an example.
        options: The answers to choose from, for all texts.
    """
    return [
        Example(input=text, options=tuple(options), label=None, where=f"text {number}")
        for number, text in enumerate(texts, start=1)
    ]


def labels_of(examples: Sequence[Example]) -> list[int]:
    """The label of every example, in order.

    Raises:
        InputDataError: An example has no label.
    """
    labels = []
    for example in examples:
        if example.label is None:
            raise InputDataError(f"{example.where}: there is no label; fill it in")
        labels.append(example.label)
    return labels


@dataclass(frozen=True)
class Task:
    """One split's examples of one task.

    Args:
        name: What reports call the task.
        examples: The rows, in the file's order.
        kind: Whether the options are fixed labels; of the whole task, not of this split alone.
        split: "train", "dev", "test" or another name; None where the data has no splits.
        warnings: What was dropped, repaired or odd: sentences that do not name the task.
    """

    name: str
    examples: tuple[Example, ...]
    kind: Kind = Kind.FIXED_LABELS
    split: str | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def options(self) -> tuple[str, ...]:
        """The one set of options, in the one order, that all examples share.

        Raises:
            InputDataError: Two rows differ in their options, or there is no example.
        """
        if not self.examples:
            raise InputDataError(f"{self.name}: there are no examples; give at least one")
        first = self.examples[0]
        for example in self.examples:
            if example.options != first.options:
                raise InputDataError(
                    f"{example.where}: its options {list(example.options)} differ from "
                    f"{list(first.options)} of {first.where}; "
                    "give all rows the same options in the same order"
                )
        return first.options

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attribute columns, in order of first appearance."""
        return tuple(dict.fromkeys(name for row in self.examples for name in row.attributes))

    @property
    def labels(self) -> list[int]:
        """The label of every example, in order.

        Raises:
            InputDataError: An example has no label.
        """
        return labels_of(self.examples)


@dataclass(frozen=True)
class TaskSplits:
    """All splits of one task.

    Args:
        name: What reports call the task.
        kind: Whether the options are fixed labels.
        splits: The examples, by the name of the split.
        warnings: What is odd about the task as a whole: labels, leaks.
        seeds: The support seeds there are, where the data has some; `splits` holds one of them.
        leaks: How many test rows also stand, with the same options, in train or dev (of any
            seed); None where there is nothing to compare.
    """

    name: str
    kind: Kind
    splits: Mapping[str, Task]
    warnings: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    leaks: int | None = None


@dataclass(frozen=True)
class TaskSet:
    """The tasks one call has read.

    Args:
        tasks: One split of each, under names that differ.
        warnings: What was left out, and why.
    """

    tasks: tuple[Task, ...]
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


def with_options(task: Task, options: Sequence[str]) -> Task:
    """The task with its options in the given order, and its labels counted by that order.

    Raises:
        InputDataError: The options are other ones, or differ from row to row.
    """
    order = tuple(option.strip() for option in options)
    if task.kind is Kind.MULTIPLE_CHOICE:
        raise InputDataError(
            f"{task.name}: every row has options of its own, and the run has fixed ones, "
            f"{listed(order)}; predict with a run whose scorer reads option texts"
        )
    for example in task.examples:
        if set(example.options) != set(order):
            raise InputDataError(
                f"{example.where}: the options {listed(example.options)} are not the run's, "
                f"{listed(order)}; give data with the run's labels"
            )
    return replace(task, examples=tuple(reordered(example, order) for example in task.examples))


def reordered(example: Example, order: tuple[str, ...]) -> Example:
    """The example with the same options in another order."""
    if example.options == order:
        return example
    label = None if example.label is None else order.index(example.options[example.label])
    return replace(example, options=order, label=label)
