"""Scaled cosine between the embeddings of an input and of each option's text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, TokenIds
from bayes_lora.data import Example
from bayes_lora.scorers.base import Batch, Row, Scorer, pool
from bayes_lora.scorers.padding import padded


@dataclass(frozen=True)
class Similarity(Scorer):
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
        return {"log_scale": Factor((1,), unit=0.5, starts_at_zero=True)}

    def problem(self, backbone: Backbone, options: tuple[str, ...]) -> str | None:
        """Say which option has no token that the model knows."""
        special = set(backbone.tokenizer.all_special_ids)
        for option, tokens in zip(options, backbone.encode(options), strict=True):
            if special.issuperset(tokens.ids):
                return f"option {option!r} has no token that this model knows"
        return None

    def rows(self, backbone: Backbone, examples: Sequence[Example]) -> list[Row]:
        """Tokenize inputs and options, each distinct option once."""
        inputs = backbone.encode([example.input for example in examples])
        texts = list(dict.fromkeys(option for example in examples for option in example.options))
        ids = dict(zip(texts, (tokens.ids for tokens in backbone.encode(texts)), strict=True))
        return [
            Row(tokens.ids, tuple(ids[option] for option in example.options), tokens.cut)
            for tokens, example in zip(inputs, examples, strict=True)
        ]

    def cost(self, row: Row) -> int:
        """Count the input's tokens; the options' are shared."""
        return len(row.ids)

    def collate(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        groups: int = 1,
        embedded: Mapping[TokenIds, int] | None = None,
    ) -> Batch:
        """Pad inputs and each group's distinct options; ``option_index [B, K]``, -1 for none."""
        batch = backbone.collate([row.ids for row in rows])
        if embedded is not None:
            index = [[embedded[option] for option in row.options] for row in rows]
            return batch | {"option_index": padded(index).to(backbone.device)}
        size = len(rows) // groups
        distinct = [self.shared(rows[i : i + size]) for i in range(0, len(rows), size)]
        most = max(len(options) for options in distinct)
        sequences = [ids for own in distinct for ids in own + own[:1] * (most - len(own))]
        index = [
            [distinct[i // size].index(option) for option in row.options]
            for i, row in enumerate(rows)
        ]
        options = backbone.collate(sequences)
        return batch | {
            "option_ids": options["input_ids"],
            "option_mask": options["attention_mask"],
            "option_index": padded(index).to(backbone.device),
        }

    def shared(self, rows: Sequence[Row]) -> list[TokenIds]:
        """List the distinct options."""
        return list(dict.fromkeys(option for row in rows for option in row.options))

    def embed(self, backbone: Backbone, inputs: Batch) -> Tensor:
        """Pool and normalise, ``[B, hidden_size]``, float32 or wider."""
        pooled = pool(backbone.states(inputs), inputs["attention_mask"], self.pooling)
        return F.normalize(pooled if pooled.dtype == torch.float64 else pooled.float(), dim=-1)

    def logits(
        self,
        backbone: Backbone,
        batch: Batch,
        head: Mapping[str, Tensor],
        shared: Tensor | None = None,
    ) -> Tensor:
        """Embed inputs and options, and scale their cosines."""
        scale = self.scale * head["log_scale"].exp()  # [R, 1]
        groups = len(scale)
        own = {key: batch[key] for key in ("input_ids", "attention_mask")}
        inputs = self.embed(backbone, own).unflatten(0, (groups, -1))
        if shared is None:
            texts = {"input_ids": batch["option_ids"], "attention_mask": batch["option_mask"]}
            shared = self.embed(backbone, texts).unflatten(0, (groups, -1))
        cosines = torch.bmm(inputs, shared.transpose(1, 2))  # [R, rows each, options]
        cosines = (cosines * scale.unsqueeze(-1)).flatten(0, 1)
        index = batch["option_index"]
        return cosines.gather(1, index.clamp(min=0)).masked_fill(index < 0, -torch.inf)
