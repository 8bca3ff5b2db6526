"""Scorers that read pooled states: what they share, and passes without much padding."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_lora.backbone import Backbone, TokenIds
from bayes_lora.backbone.precision import float32_or_wider
from bayes_lora.scorers.base import Batch, Row, Scorer

INPUT = "input"


class PooledScorer(Scorer):
    """A scorer of texts that become one vector each."""

    pooling: str

    def embed(self, backbone: Backbone, inputs: Batch) -> Tensor:
        """Pool the states of texts, ``[B, hidden_size]``, float32 or wider."""
        pooled = pool(backbone.states(inputs), inputs["attention_mask"], self.pooling)
        return float32_or_wider(pooled)

    def embed_all(self, backbone: Backbone, batch: Batch, name: str) -> Tensor:
        """Embed the texts of ``in_blocks``, ``[texts, hidden_size]``, in the order given there.

        Those called ``input`` are the batch's rows, and see their levels' weights.
        """
        parts: list[Tensor] = []
        while f"{name}_ids_{len(parts)}" in batch:
            number = len(parts)
            inputs = {
                "input_ids": batch[f"{name}_ids_{number}"],
                "attention_mask": batch[f"{name}_mask_{number}"],
            }
            entries, places = (batch.get(f"{name}_{what}_{number}") for what in ("entry", "place"))
            with backbone.rows_using(entries, places, of_rows=name == INPUT):
                parts.append(self.embed(backbone, inputs))
        places = torch.cat([batch[f"{name}_place_{number}"] for number in range(len(parts))])
        return torch.cat(parts)[places.argsort()]

    def repeat(self, batch: Batch, copies: int) -> Batch:
        """Repeat a batch of one group; each copy's texts stand in places of their own."""
        repeated = dict(super().repeat(batch, copies))
        for key, value in batch.items():
            name, is_place, _ = key.partition("_place_")
            if is_place:
                step = sum(len(v) for k, v in batch.items() if k.startswith(f"{name}_place_"))
                repeated[key] = torch.cat([value + i * step for i in range(copies)])
        return repeated


def in_blocks(
    backbone: Backbone, texts: Sequence[TokenIds], entries: Sequence[int], name: str
) -> dict[str, Tensor]:
    """Pad texts in blocks of like length, so that the longest does not set the length of all.

    Args:
        backbone: Pads and places the tensors.
        texts: Texts.
        entries: Which draw of the weights each text is to be embedded under.
        name: What the tensors are called, without an underscore.

    Returns:
        Of each block: ``<name>_ids_<i>`` and ``<name>_mask_<i>``, ``[n_i, T_i]``;
        ``<name>_place_<i>`` ``[n_i]``, where a text stood in ``texts``; and ``<name>_entry_<i>``
        ``[n_i]``, missing where every draw has as many texts as any other, in order.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    batch = {}
    for number, (first, last) in enumerate(_spans([len(texts[i]) for i in order])):
        own = sorted(order[first:last], key=lambda i: entries[i])
        padded = backbone.collate([texts[i] for i in own])
        batch[f"{name}_ids_{number}"] = padded["input_ids"]
        batch[f"{name}_mask_{number}"] = padded["attention_mask"]
        counts = Counter(entries[i] for i in own)
        if len(set(counts.values())) > 1 or len(counts) < len(set(entries)):
            which = torch.tensor([entries[i] for i in own], device=backbone.device)
            batch[f"{name}_entry_{number}"] = which
        batch[f"{name}_place_{number}"] = torch.tensor(own, device=backbone.device)
    return batch


def collate_inputs(backbone: Backbone, rows: Sequence[Row], groups: int) -> dict[str, Tensor]:
    """Pad the inputs of rows, group by group, in blocks called ``input``."""
    size = len(rows) // groups
    return in_blocks(
        backbone, [row.ids for row in rows], [i // size for i in range(len(rows))], INPUT
    )


def _spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut descending lengths where they have halved: few passes, less than half of them padding."""
    starts = [0]
    for j, length in enumerate(lengths):
        if 2 * length <= lengths[starts[-1]]:
            starts.append(j)
    return list(zip(starts, [*starts[1:], len(lengths)], strict=True))


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Reduce ``[B, T, d]`` to ``[B, d]``, over real tokens only (either padding side)."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * positions).argmax(1)
    chosen = mask.argmax(1) if pooling == "first" else last
    return states[torch.arange(len(states), device=states.device), chosen]
