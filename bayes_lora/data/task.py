"""A task: texts, the options each can be answered with, and which option is right."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from bayes_lora.errors import InputDataError


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


@dataclass(frozen=True)
class Task:
    """Examples of one task, under the name reports call it by."""

    name: str
    examples: tuple[Example, ...]

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
    def labels(self) -> list[int]:
        """The label of every example, in order.

        Raises:
            InputDataError: An example has no label.
        """
        labels = []
        for example in self.examples:
            if example.label is None:
                raise InputDataError(f"{example.where}: there is no label; fill it in")
            labels.append(example.label)
        return labels

    def check_trainable(self) -> None:
        """Check that the task can be learnt: one set of options, all labels, two classes.

        Raises:
            InputDataError: The options differ, a label is missing, or fewer than two
                different labels occur.
        """
        options = self.options
        counts = Counter(self.labels)
        if len(counts) < 2:
            (only,) = counts
            raise InputDataError(
                f"{self.name}: one class only, all {len(self)} rows are labelled "
                f"{options[only]!r}; add rows of another class"
            )
