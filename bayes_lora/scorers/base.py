"""What a scorer is: how examples become forward passes, and those become logits over options."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    """

    ids: TokenIds
    options: tuple[TokenIds, ...] = ()
    cut: bool = False


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

    def shared(self, rows: Sequence[Row]) -> list[TokenIds]:
        """List what rows have in common, to be embedded once a draw; by default nothing."""
        return []

    def embed(self, backbone: Backbone, inputs: Batch) -> Tensor:
        """Embed some of what ``shared`` listed, ``[B, T]`` to ``[B, hidden_size]``."""
        raise NotImplementedError(f"{type(self).__name__} shares nothing between rows")

    @abstractmethod
    def logits(
        self,
        backbone: Backbone,
        batch: Batch,
        head: Mapping[str, Tensor],
        shared: Tensor | None = None,
    ) -> Tensor:
        """Score the options of each row, under the adapter weights in force.

        Args:
            backbone: Runs the passes.
            batch: Of ``collate``.
            head: The scorer's weights, ``[R, *shape]``, R dividing B, aligned as the adapters'.
            shared: Embeddings, ``[R, sequences, hidden_size]``, if the batch was collated so.

        Returns:
            Logits, float32 or wider, ``[B, most options of a row]``; minus infinity where a row
            has no such option.
        """

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
