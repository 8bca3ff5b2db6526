"""Scaled cosine between the embeddings of an input and of each option's text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, TokenIds
from bayes_lora.data import Example
from bayes_lora.scorers.base import Batch, Row, log_scale, scale_of_rows
from bayes_lora.scorers.padding import padded
from bayes_lora.scorers.pooled import PooledScorer, collate_inputs, in_blocks


@dataclass(frozen=True)
class Similarity(PooledScorer):
    """``scale * exp(log_scale) * cos(input, option)``, as sentence encoders are trained.

    Needs no example of a label to know it by its name, so it works before any fit and for options
    that training never saw. Distinct options are embedded once a draw (in training: once for the
    rows that share a draw), however many rows ask for them.

    Args:
        pooling: ``mean`` over the tokens, the ``first`` token or the ``last``.
        scale: 20 is what MiniLM was trained with (its model card).
    """

    pooling: str
    scale: float = 20.0

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """``log_scale [1]``: how sure similarity makes; starts at zero."""
        return log_scale()

    def problem(self, backbone: Backbone, options: tuple[str, ...]) -> str | None:
        """Say which option has no token that the model knows."""
        special = set(backbone.tokenizer.all_special_ids)
        for option, tokens in zip(options, backbone.encode(options), strict=True):
            if special.issuperset(tokens.ids):
                return f"option {option!r} has no token that this model knows"
        return None

    def reads_alike(self, backbone: Backbone, options: tuple[str, ...]) -> bool:
        """Compare the options' tokens: an uncased model does not tell "Polish" from "polish"."""
        tokens = [encoded.ids for encoded in backbone.encode(options)]
        return len(set(tokens)) < len(tokens)

    def rows(self, backbone: Backbone, examples: Sequence[Example]) -> list[Row]:
        """Tokenize inputs and options, each distinct option once."""
        inputs = backbone.encode([example.input for example in examples])
        texts = list(dict.fromkeys(option for example in examples for option in example.options))
        encoded = dict(zip(texts, backbone.encode(texts), strict=True))
        rows = []
        for tokens, example in zip(inputs, examples, strict=True):
            options = [encoded[option] for option in example.options]
            cut = tokens.cut or any(option.cut for option in options)
            rows.append(Row(tokens.ids, tuple(option.ids for option in options), cut))
        return rows

    def cost(self, backbone: Backbone, row: Row) -> int:
        """Count the input's tokens; the options' are shared."""
        return len(row.ids)

    def collate(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        groups: int = 1,
        embedded: Mapping[TokenIds, int] | None = None,
    ) -> Batch:
        """Pad inputs and each group's distinct options; ``which [B, K]``, -1 for no option."""
        batch = collate_inputs(backbone, rows, groups)
        if embedded is not None:
            which = [[embedded[option] for option in row.options] for row in rows]
            return batch | {"which": padded(which).to(backbone.device)}
        places: dict[tuple[int, TokenIds], int] = {}
        size = len(rows) // groups
        which = [
            [places.setdefault((i // size, option), len(places)) for option in row.options]
            for i, row in enumerate(rows)
        ]
        options = in_blocks(
            backbone, [ids for _, ids in places], [group for group, _ in places], "option"
        )
        return batch | options | {"which": padded(which).to(backbone.device)}

    def repeat(self, batch: Batch, copies: int) -> Batch:
        """Repeat a batch of one group; each copy's rows ask for its own options."""
        repeated = dict(super().repeat(batch, copies))
        which = batch["which"]
        step = sum(len(value) for key, value in batch.items() if key.startswith("option_place_"))
        moved = [torch.where(which < 0, which, which + i * step) for i in range(copies)]
        return repeated | {"which": torch.cat(moved)}

    def shared(self, rows: Sequence[Row]) -> list[TokenIds]:
        """List the distinct options."""
        return list(dict.fromkeys(option for row in rows for option in row.options))

    def features(
        self, backbone: Backbone, batch: Batch, shared: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Embed inputs and options; their cosines, ``[B, K]``."""
        inputs = F.normalize(self.embed_all(backbone, batch, "input"), dim=-1)
        which = batch["which"].clamp(min=0)
        if shared is None:
            options = F.normalize(self.embed_all(backbone, batch, "option"), dim=-1)
            return {"cosines": torch.einsum("bd,bkd->bk", inputs, options[which])}
        by_draw = inputs.unflatten(0, (len(shared), -1))
        products = torch.bmm(by_draw, F.normalize(shared, dim=-1).transpose(1, 2))
        return {"cosines": products.flatten(0, 1).gather(1, which)}

    def score(
        self, features: Mapping[str, Tensor], batch: Batch, head: Mapping[str, Tensor]
    ) -> Tensor:
        """Scale the cosines."""
        cosines = features["cosines"]
        logits = self.scale * scale_of_rows(head, len(cosines)) * cosines
        return logits.masked_fill(batch["which"] < 0, -torch.inf)
