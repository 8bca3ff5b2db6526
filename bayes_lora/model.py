"""The Pyro program: priors on factors, a backbone that takes them, labels (docs/maths.md)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, FactorKey
from bayes_lora.effects import Effect, Prior, PriorModule
from bayes_lora.errors import ConfigError
from bayes_lora.scorers import Batch, Scorer

HEAD = "head"


@dataclass(frozen=True)
class Site:
    """One latent variable of the program.

    Args:
        name: Pyro's name for it, such as ``population.query.A`` or ``head.weight``.
        shape: Event shape; the first dimension of an adapter's site counts layers.
        unit: The natural size of one entry.
        start: Where a fit starts, and where the prior is centred.
        key: The backbone's key for it, or None for a weight of the scorer.
    """

    name: str
    shape: tuple[int, ...]
    unit: float
    start: Tensor
    key: FactorKey | None


class BayesianModel(nn.Module):
    """Adapter and head weights drawn from their priors, labels given rows and weights.

    The backbone is not a submodule: the model's parameters and state are those of the priors
    alone, which is what is trained and saved.

    Args:
        backbone: The frozen backbone.
        effects: The terms whose updates add up.
        scorer: Turns examples into logits over their options.
        head_prior: Prior of the scorer's own weights.
        num_rows: Rows in the training data, N; a minibatch of B stands for N rows.
        seed: Of the random starting values.
        kl_weight: Weight of the prior against the likelihood, lambda. 1 is Bayes' rule; any other
            value is tempering: the target is ``p(labels | w)^(1 / lambda) p(w)``, whatever
            algorithm runs on the program.
        share_rows: With G vectorised particles, give each G-th part of the batch to one particle
            (the unbiased, cheap estimator the fit uses) instead of the whole batch to every one.
    """

    def __init__(
        self,
        backbone: Backbone,
        effects: Sequence[Effect],
        scorer: Scorer,
        *,
        head_prior: Prior,
        num_rows: int,
        seed: int = 0,
        kl_weight: float = 1.0,
        share_rows: bool = False,
    ) -> None:
        super().__init__()
        object.__setattr__(self, "backbone", backbone)  # frozen: neither trained nor saved
        if len({effect.name for effect in effects}) < len(effects):
            raise ConfigError("Two effects have the same name: give each a name of its own.")
        self.scorer = scorer
        self.adapters = {effect.name: effect.adapter for effect in effects}
        self.num_rows = num_rows
        self.kl_weight = kl_weight
        self.share_rows = share_rows
        self.sites: dict[str, Site] = {}
        self.priors = nn.ModuleDict()
        self._prior_of: dict[str, PriorModule] = {}
        generator = torch.Generator().manual_seed(seed)
        for effect in effects:
            for group in backbone.groups:
                factors = effect.adapter.factors(group.d_in, group.d_out)
                for name, factor in factors.items():
                    key = (effect.name, group.name, name)
                    stacked = replace(factor, shape=(len(group.layers), *factor.shape))
                    self._add(".".join(key), stacked, effect.prior_of(name), key, generator)
        for name, factor in scorer.factors(backbone.hidden_size).items():
            self._add(f"{HEAD}.{name}", factor, head_prior, None, generator)

    backbone: Backbone

    def forward(self, batch: Batch, labels: Tensor | None = None) -> Tensor:
        """Run the program: draw weights, score the rows, observe (or draw) the labels.

        Args:
            batch: The scorer's tensors for B rows, in one group, or as many as there are particles
                where these share the rows.
            labels: Option indices ``[B]``; None to draw them.

        Returns:
            Logits, ``[B, options]``, or ``[G, rows each, options]`` under G particles.
        """
        values = {name: pyro.sample(name, self.prior(name)) for name in self.sites}
        lead = self._particle_shape(values)
        draws = lead.numel()
        if not self.share_rows:
            batch = self.scorer.repeat(batch, draws)
        flat = {n: v.reshape(draws, *self.sites[n].shape) for n, v in values.items()}
        logits = self.logits(batch, flat)
        logits = logits.view(*lead[:-1], -1, logits.shape[-1])
        if labels is not None:
            labels = labels.view(logits.shape[:-1]) if self.share_rows else labels
        rows = torch.arange(logits.shape[-2], device=logits.device)
        tempering = poutine.scale(scale=1.0 / self.kl_weight)
        with tempering, pyro.plate("rows", self.num_rows, subsample=rows, dim=-1):
            pyro.sample("label", self.scorer.label_distribution(logits), obs=labels)
        return logits

    def prior(self, site: str) -> pyro.distributions.TorchDistribution:
        """Return the prior of one site."""
        return self._prior_of[site].distribution()

    def _particle_shape(self, values: Mapping[str, Tensor]) -> torch.Size:
        """Return the dimensions that Pyro's vectorised particles add, such as ``[G, 1]``."""
        name, value = next(iter(values.items()))
        return value.shape[: value.dim() - len(self.sites[name].shape)]

    def logits(
        self, batch: Batch, values: Mapping[str, Tensor], shared: Tensor | None = None
    ) -> Tensor:
        """Score rows under given weights, without Pyro.

        Args:
            batch: The scorer's tensors for B rows in R groups.
            values: Site name to draws ``[R, *shape]``, R dividing B; rows ``i * B / R`` to
                ``(i + 1) * B / R`` use draw i.
            shared: Embeddings of what the rows share under these draws (see ``Scorer``).

        Returns:
            Logits ``[B, options]``.
        """
        head = {n.split(".", 1)[1]: values[n] for n, s in self.sites.items() if s.key is None}
        with self.under(values):
            return self.scorer.logits(self.backbone, batch, head, shared)

    @contextmanager
    def under(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Put the adapters' weights in force for backbone passes inside the ``with`` block."""
        factors = {s.key: values[n] for n, s in self.sites.items() if s.key is not None}
        with self.backbone.adapted(factors, self.adapters):
            yield

    def _add(
        self,
        name: str,
        factor: Factor,
        prior: Prior,
        key: FactorKey | None,
        generator: torch.Generator,
    ) -> None:
        start = torch.zeros(factor.shape)
        if not factor.starts_at_zero:
            start = torch.randn(factor.shape, generator=generator) * factor.unit
        self.sites[name] = Site(name, factor.shape, factor.unit, start, key)
        module = prior.build(start, factor.unit)
        self.priors[parameter_name(name)] = module
        self._prior_of[name] = module


def parameter_name(site: str) -> str:
    """Turn a site's name into one torch accepts for a parameter or module (no dots)."""
    return site.replace(".", "/")
