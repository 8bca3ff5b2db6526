"""What a scorer is: how examples become forward passes, and those become logits over options."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, TokenIds
from bayes_lora.data import Example

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Row:
    """An example as token ids.

    Args:
        ids: Of what is read before the options.
        options: Of each option, where the scorer reads them; else empty.
        cut: Whether the text was too long and lost some.
        levels: Of each effect with levels, in the model's order, which entry of its table the row
            uses; -1: it has no level there.
    """

    ids: TokenIds
    options: tuple[TokenIds, ...] = ()
    cut: bool = False
    levels: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelledRows:
    """Rows to learn from: what the scorer made of them, and the index of each one's label."""

    rows: Sequence[Row] = ()
    labels: Sequence[int] = ()

    def __iter__(self) -> Iterator[tuple[Row, int]]:
        return iter(zip(self.rows, self.labels, strict=True))

    def __len__(self) -> int:
        return len(self.rows)


class Scorer(ABC):
    """Turns examples into logits; may have weights of its own, random like the adapters'.

    A frozen dataclass of its settings. To add one: a new file, a line in ``SCORERS``, and the
    conformance suite runs it.
    """

    @abstractmethod
    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """Name and describe the scorer's own weights."""

    @abstractmethod
    def problem(self, backbone: Backbone, options: tuple[str, ...]) -> str | None:
        """Say why examples with these options cannot be scored, or None if they can."""

    def reads_alike(self, backbone: Backbone, options: tuple[str, ...]) -> bool:
        """Say whether two options look the same to the model, so that it cannot choose."""
        return False

    @abstractmethod
    def rows(self, backbone: Backbone, examples: Sequence[Example]) -> list[Row]:
        """Turn examples that can be scored into token ids."""

    @abstractmethod
    def cost(self, backbone: Backbone, row: Row) -> int:
        """Count the tokens a row adds to a forward pass, or what costs as much memory."""

    @abstractmethod
    def collate(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        groups: int = 1,
        embedded: Mapping[TokenIds, int] | None = None,
    ) -> Batch:
        """Make the tensors of a minibatch.

        Args:
            backbone: What will run on them.
            rows: Rows, group by group.
            groups: Groups of rows that may have weights of their own, R; divides the rows.
            embedded: Where what ``shared`` listed stands in the embeddings ``logits`` will get;
                None to have it encoded with the rows.

        Returns:
            Tensors, of which ``repeat`` makes copies.
        """

    def collate_tasks(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        supports: Sequence[LabelledRows],
        own: Sequence[int] | None = None,
    ) -> Batch:
        """Make the tensors of equally many rows of each of several tasks.

        Args:
            backbone: What will run on them.
            rows: Rows, task by task.
            supports: Each task's labelled examples, for a scorer that learns from them without
                steps; the others do not look at them.
            own: Where the rows are the support itself: each one's place in its task's support, so
                that it can be left out of what is learned.
        """
        return self.collate(backbone, rows, groups=len(supports))

    def with_support(self, support: LabelledRows) -> "Scorer":
        """The scorer for one task with these labelled examples; by default the same one."""
        return self

    def shared(self, rows: Sequence[Row]) -> list[TokenIds]:
        """List what rows have in common, to be embedded once a draw; by default nothing."""
        return []

    def embed(self, backbone: Backbone, inputs: Batch) -> Tensor:
        """Embed some of what ``shared`` listed, ``[B, T]`` to ``[B, hidden_size]``."""
        raise NotImplementedError(f"{type(self).__name__} shares nothing between rows")

    @abstractmethod
    def features(
        self, backbone: Backbone, batch: Batch, shared: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """Make the passes, under the adapter weights in force.

        Args:
            backbone: Runs the passes.
            batch: Of ``collate``.
            shared: Embeddings, ``[R, sequences, hidden_size]``, if the batch was collated so.

        Returns:
            All that the scorer's own weights are applied to.
        """

    @abstractmethod
    def score(
        self, features: Mapping[str, Tensor], batch: Batch, head: Mapping[str, Tensor]
    ) -> Tensor:
        """Score the options of each row.

        Args:
            features: Of ``features``.
            batch: Of ``collate``.
            head: The scorer's weights, ``[R, *shape]``, R dividing B, aligned as the adapters'.

        Returns:
            Logits, float32 or wider, ``[B, most options of a row]``; minus infinity where a row
            has no such option.
        """

    def logits(
        self,
        backbone: Backbone,
        batch: Batch,
        head: Mapping[str, Tensor],
        shared: Tensor | None = None,
    ) -> Tensor:
        """Make the passes and score; arguments and result are those of the two methods above."""
        return self.score(self.features(backbone, batch, shared), batch, head)

    def repeat(self, batch: Batch, copies: int) -> Batch:
        """Repeat a batch of one group, so that each copy can have weights of its own."""
        return repeated(batch, copies)

    def label_distribution(self, logits: Tensor) -> dist.TorchDistribution:
        """Return the distribution of a label given its row's logits."""
        return dist.Categorical(logits=logits)


def repeated(batch: Batch, copies: int) -> dict[str, Tensor]:
    """Repeat every tensor along its first dimension."""
    return {key: torch.cat([value] * copies) for key, value in batch.items()}


def log_scale() -> dict[str, Factor]:
    """Describe the one weight of a scorer that reads options: how sure its scores make one."""
    return {"log_scale": Factor((1,), unit=0.5, starts_at_zero=True)}


def scale_of_rows(head: Mapping[str, Tensor], num_rows: int) -> Tensor:
    """Give each row the scale of its draw, ``[num_rows, 1]``."""
    scale = head["log_scale"].exp()  # [R, 1]
    return scale.repeat_interleave(num_rows // len(scale), 0)
