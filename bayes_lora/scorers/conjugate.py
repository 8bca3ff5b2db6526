"""The conjugate head: a Gaussian mean for each option, updated by support rows in closed form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, TokenIds
from bayes_lora.scorers.base import Batch, LabelledRows, Row
from bayes_lora.scorers.padding import padded
from bayes_lora.scorers.pooled import PooledScorer, in_blocks
from bayes_lora.scorers.similarity import Similarity

LOG_WEIGHTS = ("log_scale", "log_gain", "log_count", "log_concentration")


@dataclass(frozen=True)
class Conjugate(Similarity):
    """Similarity that learns from support examples without a gradient step.

    Embeddings of inputs given option k are Normal(m_k, I / s) in the direction of interest, and
    m_k has a Normal prior around the (centred) embedding e_k of the option's own text, worth c
    examples. Given n_k support inputs h_i that were answered with k, its posterior mean is

        m_k = (c g e_k + sum over them of h_i) / (c + n_k),

    and the logits of an input h are ``s (h . m_k - |m_k|^2 / 2) + log((n_k + a) / (n + a K))``: the
    likelihood of h under the posterior mean, and the class frequencies under a symmetric Dirichlet
    prior. All inputs are first centred by ``sum of the support's h / (n + c)``. An option that is
    nobody's answer in the support, as in multiple choice, keeps its prior. Without support the
    logits are ``s g h . e_k - s g^2 |e_k|^2 / 2``: scaled similarity, less for an option whose
    text is far from the others'.

    Args:
        pooling: ``mean`` over the tokens, the ``first`` token or the ``last``.
        scale: s before ``log_scale`` moves it.
        gain: g before ``log_gain`` moves it.
        count: c before ``log_count`` moves it.
        concentration: a before ``log_concentration`` moves it.
        support: The task's labelled examples; none in a model of many tasks.
    """

    scale: float = 36.0
    gain: float = 0.5
    count: float = 3.0
    concentration: float = 2.0
    support: LabelledRows = field(default_factory=LabelledRows, metadata={"saved": False})

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """Logarithms, ``[1]`` each, added to those of the settings of the same name."""
        return {name: Factor((1,), unit=0.5, starts_at_zero=True) for name in LOG_WEIGHTS}

    def with_support(self, support: LabelledRows) -> "Conjugate":
        """The same head for a task with these labelled examples."""
        return replace(self, support=support)

    def shared(self, rows: Sequence[Row]) -> list[TokenIds]:
        """List the distinct options, and the support's inputs and answers."""
        support = [text for row, label in self.support for text in (row.ids, row.options[label])]
        return list(dict.fromkeys([*super().shared(rows), *support]))

    def collate(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        groups: int = 1,
        embedded: Mapping[TokenIds, int] | None = None,
    ) -> Batch:
        """Pad texts; every group has the support of this head's task."""
        if embedded is None:
            return self.collate_tasks(backbone, rows, [self.support] * groups)
        inputs = in_blocks(backbone, [row.ids for row in rows], [0] * len(rows), "input")
        indices = _indices(rows, [self.support], None, lambda _, ids: embedded[ids])
        indices |= {"bank_size": torch.tensor([len(embedded)])}
        return inputs | {key: value.to(backbone.device) for key, value in indices.items()}

    def collate_tasks(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        supports: Sequence[LabelledRows],
        own: Sequence[int] | None = None,
    ) -> Batch:
        """Pad each task's texts, one that it has several times only once."""
        places: dict[tuple[int, TokenIds], int] = {}

        def place(task: int, ids: TokenIds) -> int:
            return places.setdefault((task, ids), len(places))

        size = len(rows) // len(supports)
        indices = {"row": torch.tensor([place(i // size, row.ids) for i, row in enumerate(rows)])}
        indices |= _indices(rows, supports, own, place)
        indices |= {"bank_size": torch.tensor([len(places)])}
        texts, tasks = [ids for _, ids in places], [task for task, _ in places]
        blocks = in_blocks(backbone, texts, tasks, "input")
        return blocks | {key: value.to(backbone.device) for key, value in indices.items()}

    def repeat(self, batch: Batch, copies: int) -> Batch:
        """Repeat a batch of one group; each copy has texts and support of its own."""
        repeated = dict(PooledScorer.repeat(self, batch, copies))
        bank = int(batch["bank_size"])
        steps = dict.fromkeys(("row", "which", "support", "answer"), bank)
        steps |= {"own": len(batch["support"]), "task": 1, "support_task": 1}
        for key in steps.keys() & batch.keys():
            value = batch[key]
            moved = [torch.where(value < 0, value, value + i * steps[key]) for i in range(copies)]
            repeated[key] = torch.cat(moved)
        return repeated

    def features(
        self, backbone: Backbone, batch: Batch, shared: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Embed texts, at length one.

        Returns:
            ``inputs [B, d]``, and the ``bank [n, d]`` of options and support, which the batch's
            indices refer to.
        """
        inputs = F.normalize(self.embed_all(backbone, batch, "input"), dim=-1)
        if shared is None:
            return {"inputs": inputs[batch["row"]], "bank": inputs}
        return {"inputs": inputs, "bank": F.normalize(shared, dim=-1).flatten(0, 1)}

    def score(
        self, features: Mapping[str, Tensor], batch: Batch, head: Mapping[str, Tensor]
    ) -> Tensor:
        """Score inputs by their options' posterior means: the class docstring's formulas."""
        inputs, bank = features["inputs"], features["bank"]
        valid, which = batch["which"] >= 0, batch["which"].clamp(min=0)
        scale, gain, count, concentration = self._weights(head, len(inputs))
        means = gain.unsqueeze(-1) * _centred(bank[which], valid)  # of the prior, [B, K, d]
        logits = -valid.sum(1, keepdim=True).to(inputs).log()  # without support, equal frequencies
        if len(batch["support"]):
            n_k, h_k, n, h = _support(inputs, bank, batch)
            centre = h / (n + count)  # [B, d]
            learned = h_k - n_k.unsqueeze(-1) * centre.unsqueeze(1)
            means = (count.unsqueeze(-1) * means + learned) / (count + n_k).unsqueeze(-1)
            inputs = inputs - centre
            frequencies = (n_k + concentration) / (n + concentration * valid.sum(1, keepdim=True))
            logits = frequencies.log()
        fit = self.affinity(inputs, means, features, batch, head)
        return (logits + scale * fit).masked_fill(~valid, -torch.inf)

    def affinity(
        self,
        inputs: Tensor,
        means: Tensor,
        features: Mapping[str, Tensor],
        batch: Batch,
        head: Mapping[str, Tensor],
    ) -> Tensor:
        """Say how well inputs ``[B, d]`` fit means ``[B, K, d]``: ``h . m - |m|^2 / 2``."""
        return torch.einsum("bd,bkd->bk", inputs, means) - means.square().sum(-1) / 2

    def _weights(self, head: Mapping[str, Tensor], num_rows: int) -> list[Tensor]:
        """Give each row the four weights of its draw, ``[num_rows, 1]`` each."""
        base = (self.scale, self.gain, self.count, self.concentration)
        values = [head[name].exp() * start for name, start in zip(LOG_WEIGHTS, base, strict=True)]
        return [value.repeat_interleave(num_rows // len(value), 0) for value in values]


def _indices(
    rows: Sequence[Row],
    supports: Sequence[LabelledRows],
    own: Sequence[int] | None,
    place: Callable[[int, TokenIds], int],
) -> dict[str, Tensor]:
    """Say where options and support stand in the bank, and which task everything is of.

    Returns:
        ``which [B, K]``, -1 for no option; ``task [B]``; ``own [B]``, a row's place in the support,
        -1 for none; ``support``, ``answer`` (its right option) and ``support_task``, ``[S]``.
    """
    size = len(rows) // len(supports)
    support = [(task, row, label) for task, given in enumerate(supports) for row, label in given]
    firsts = list(accumulate([len(given) for given in supports], initial=0))
    task = [i // size for i in range(len(rows))]
    numbers = (
        [-1] * len(rows) if own is None else [firsts[t] + i for t, i in zip(task, own, strict=True)]
    )
    lists = {
        "task": task,
        "own": numbers,
        "support": [place(t, row.ids) for t, row, _ in support],
        "answer": [place(t, row.options[label]) for t, row, label in support],
        "support_task": [t for t, _, _ in support],
    }
    which = padded([[place(t, o) for o in row.options] for t, row in zip(task, rows, strict=True)])
    return {key: torch.tensor(value, dtype=torch.long) for key, value in lists.items()} | {
        "which": which
    }


def _support(inputs: Tensor, bank: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count and sum the support for each row, without the row itself where it is of the support.

    Returns:
        Of each option the number ``[B, K]`` and the sum ``[B, K, d]`` of the inputs it answered,
        and of the whole support the number ``[B, 1]`` and the sum ``[B, d]``.
    """
    which, task, own = batch["which"].clamp(min=0), batch["task"], batch["own"]
    mine = (own >= 0).to(inputs).unsqueeze(1)  # [B, 1]
    is_answer = mine * (which == batch["answer"][own.clamp(min=0)].unsqueeze(1))  # [B, K]
    support = bank[batch["support"]]
    sums, counts = totals(support, batch["answer"], len(bank))
    n_k = counts[which] - is_answer
    h_k = sums[which] - is_answer.unsqueeze(-1) * inputs.unsqueeze(1)
    sums, counts = totals(support, batch["support_task"], int(task.max()) + 1)
    return n_k, h_k, counts[task].unsqueeze(1) - mine, sums[task] - mine * inputs


def totals(vectors: Tensor, slots: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """Sum vectors by slot, ``[num_slots, d]``, and count them, ``[num_slots]``."""
    sums = vectors.new_zeros(num_slots, vectors.shape[-1]).index_add(0, slots, vectors)
    counts = vectors.new_zeros(num_slots).index_add(0, slots, vectors.new_ones(len(slots)))
    return sums, counts


def _centred(options: Tensor, valid: Tensor) -> Tensor:
    """Subtract from each row's options ``[B, K, d]`` their mean; padding becomes zero."""
    weights = valid.unsqueeze(-1).to(options.dtype)
    mean = (options * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
    return (options - mean) * weights
