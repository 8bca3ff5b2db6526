"""The Pyro program: priors on factors, a backbone that takes them, labels (docs/maths.md)."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, FactorKey
from bayes_lora.data.attributes import Levels
from bayes_lora.effects import Effect, Pooled, Prior, PriorModule
from bayes_lora.errors import ConfigError
from bayes_lora.fusion import Fusion, fused
from bayes_lora.level_effect import LevelBatch, LevelEffect, LevelRows
from bayes_lora.reconstruction import log_likelihood
from bayes_lora.scorers import Batch, Scorer
from bayes_lora.terms import Terms, divergence

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
        levels: Of each effect with an attribute, by its name, the levels in the training data.
        coordinates: Of such an effect with a Pooled prior, how many coordinates a level has.
        fusion: How the views of such a model become one prediction.
        terms: What is observed beside the labels; None: nothing.
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
        levels: Mapping[str, Levels] | None = None,
        coordinates: Mapping[str, int] | None = None,
        fusion: Fusion = Fusion.SUM,
        terms: Terms | None = None,
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
        self.fusion = fusion
        self.terms = terms or Terms()
        self.level_effects = nn.ModuleDict()
        self.by_level: dict[str, LevelEffect] = {}
        self.sites: dict[str, Site] = {}
        self.priors = nn.ModuleDict()
        self._prior_of: dict[str, PriorModule] = {}
        self._constants: dict[FactorKey, str] = {}
        generator = torch.Generator().manual_seed(seed)
        for effect in effects:
            described = self._describe(effect, generator, seed)
            if effect.by is not None:
                count = (coordinates or {}).get(effect.name)
                self._add_levels(effect, (levels or {})[effect.name], count, described)
                continue
            for key, (factor, start) in described.items():
                self._add(".".join(key), factor, effect.prior_of(key[2]), key, start)
        for name, factor in scorer.factors(backbone.hidden_size).items():
            start = factor.start(factor.shape, generator)
            self._add(f"{HEAD}.{name}", factor, head_prior, None, start)

    backbone: Backbone

    def forward(
        self,
        batch: Batch,
        labels: Tensor | None = None,
        levels: Mapping[str, LevelBatch] | None = None,
    ) -> Tensor:
        """Run the program: draw weights, score the rows, observe (or draw) the labels.

        Args:
            batch: The scorer's tensors for B rows, in one group, or as many as there are particles
                where these share the rows.
            labels: Option indices ``[B]``; None to draw them.
            levels: Of each effect with levels, those in the batch; effects that are not named are
                left out of the program. One particle only.

        Returns:
            Logits, ``[B, options]``, or ``[G, rows each, options]`` under G particles.
        """
        values = {name: pyro.sample(name, self.prior(name)) for name in self.sites}
        own = {name: self._sample_levels(name, batch) for name, batch in (levels or {}).items()}
        lead = self._particle_shape(values)
        draws = lead.numel()
        if not self.share_rows:
            batch = self.scorer.repeat(batch, draws)
        flat = {n: v.reshape(draws, *self.sites[n].shape) for n, v in values.items()}
        logits = self.logits(batch, flat, levels=own)
        logits = logits.view(*lead[:-1], -1, logits.shape[-1])
        if labels is not None:
            labels = labels.view(logits.shape[:-1]) if self.share_rows else labels
        rows = torch.arange(logits.shape[-2], device=logits.device)
        tempering = poutine.scale(scale=1.0 / self.kl_weight)
        with tempering, pyro.plate("rows", self.num_rows, subsample=rows, dim=-1):
            pyro.sample("label", self.scorer.label_distribution(logits), obs=labels)
            if labels is not None:
                self._observe_terms(batch, labels, logits, flat, own)
        return logits

    def prior(self, site: str) -> pyro.distributions.TorchDistribution:
        """Return the prior of one site."""
        return self._prior_of[site].distribution()

    def _particle_shape(self, values: Mapping[str, Tensor]) -> torch.Size:
        """Return the dimensions that Pyro's vectorised particles add, such as ``[G, 1]``."""
        name, value = next(iter(values.items()))
        return value.shape[: value.dim() - len(self.sites[name].shape)]

    def logits(
        self,
        batch: Batch,
        values: Mapping[str, Tensor],
        shared: Tensor | None = None,
        levels: Mapping[str, LevelRows] | None = None,
    ) -> Tensor:
        """Score rows under given weights, without Pyro.

        Args:
            batch: The scorer's tensors for B rows in R groups.
            values: Site name to draws ``[R, *shape]``, R dividing B; rows ``i * B / R`` to
                ``(i + 1) * B / R`` use draw i.
            shared: Embeddings of what the rows share under these draws (see ``Scorer``).
            levels: Effect name to its levels' coordinates and the rows that have them; an effect
                that is not named is no view of these rows.

        Returns:
            Logits ``[B, options]``.
        """
        head = {n.split(".", 1)[1]: values[n] for n, s in self.sites.items() if s.key is None}

        def run(population: float, levels: Mapping[str, LevelRows]) -> Tensor:
            with self.under(values, levels, population):
                return self.scorer.logits(self.backbone, batch, head, shared)

        logits = fused(self.fusion, run, levels or {})
        return logits * self.factor(levels) if levels else logits

    def _observe_terms(
        self,
        batch: Batch,
        labels: Tensor,
        logits: Tensor,
        values: Mapping[str, Tensor],
        levels: Mapping[str, LevelRows],
    ) -> None:
        """Observe what M2A's loss has beside the labels: ``TERM_SITES`` names them."""
        if self.terms.reconstruction:
            with self.under(values, levels):
                tokens = log_likelihood(self.backbone, batch).view(logits.shape[:-1])
            pyro.factor("tokens", self.terms.reconstruction * tokens)
        if self.terms.distillation and levels:
            coarse = self.logits(batch, values).view_as(logits)
            pyro.sample("coarse-label", self.scorer.label_distribution(coarse), obs=labels)
            pyro.factor("distillation", -divergence(logits, coarse))

    def factor(self, effects: Iterable[str]) -> Tensor:
        """How much further apart logits are given levels of these effects than without."""
        return (1 + torch.stack([self.by_level[name].attenuation for name in effects]).sum()).sqrt()

    @contextmanager
    def under(
        self,
        values: Mapping[str, Tensor],
        levels: Mapping[str, LevelRows] | None = None,
        population: float = 1.0,
    ) -> Iterator[None]:
        """Put the adapters' weights in force for backbone passes inside the ``with`` block.

        Args:
            values: Site name to draws ``[R, *shape]``.
            levels: Effect name to its levels' coordinates and the rows that have them.
            population: What the updates that everybody shares are multiplied by.
        """
        levels = levels or {}
        own: dict[FactorKey, Tensor] = {}
        for name, rows in levels.items():
            own |= self.by_level[name].factors(rows.padded())
        shared = [name for name in self.adapters if name not in self.by_level]
        factors = self.factors(values, [*levels, *(shared if population else ())]) | own
        entries = {name: rows.entries() for name, rows in levels.items()}
        weights = dict.fromkeys(shared, population)
        with self.backbone.adapted(factors, self.adapters, entries, weights):
            yield

    def factors(
        self, values: Mapping[str, Tensor], effects: Collection[str]
    ) -> dict[FactorKey, Tensor]:
        """Give what the backbone takes of some effects: factors' values and adapters' constants.

        Args:
            values: Site name to draws ``[R, *shape]``.
            effects: Their names.
        """
        found = {s.key: values[n] for n, s in self.sites.items() if s.key and s.key[0] in effects}
        fixed = {key: getattr(self, n) for key, n in self._constants.items() if key[0] in effects}
        return found | {key: value.unsqueeze(0) for key, value in fixed.items()}

    def _sample_levels(self, name: str, batch: LevelBatch) -> LevelRows:
        """Draw the coordinates of the levels in a batch, each prior with its level's weight."""
        prior = self.by_level[name].prior().expand([len(batch.present)])
        with batch.plate(name):
            return LevelRows(pyro.sample(level_site(name), prior), batch.rows)

    def _describe(
        self, effect: Effect, generator: torch.Generator, seed: int
    ) -> dict[FactorKey, tuple[Factor, Tensor]]:
        """Describe an effect's factors, and where they start; keep its adapter's constants."""
        described: dict[FactorKey, tuple[Factor, Tensor]] = {}
        for group in self.backbone.groups:
            parts = self.backbone.parts(effect.adapter, group, generator, seed)
            for name, value in parts.constants.items():
                key = (effect.name, group.name, name)
                self._constants[key] = parameter_name("/".join(("constant", *key)))
                self.register_buffer(self._constants[key], value)
            for name, factor in parts.factors.items():
                described[effect.name, group.name, name] = factor, parts.starts[name]
        return described

    def _add_levels(
        self,
        effect: Effect,
        levels: Levels,
        count: int | None,
        described: Mapping[FactorKey, tuple[Factor, Tensor]],
    ) -> None:
        """Add an effect that differs by level; what its levels share is a site, or constant."""
        own_names = effect.adapter.level_factors
        shared = {key: own for key, own in described.items() if key[2] not in own_names}
        self._check_levels(effect, [factor for factor, _ in shared.values()])
        starts = {key: start for key, (_, start) in shared.items()}
        own = LevelEffect(effect, self.backbone.groups, levels, starts, count)
        self.level_effects[parameter_name(effect.name)] = own
        self.by_level[effect.name] = own
        if not own.pooled:
            for key, (factor, start) in shared.items():
                self._add(".".join(key), factor, effect.prior_of(key[2]), key, start)

    def _check_levels(self, effect: Effect, shared: Iterable[Factor]) -> None:
        """Check that an adapter can be that of an attribute's levels."""
        if not effect.adapter.level_factors:
            raise ConfigError(
                f"{effect.adapter} has no factors in which the levels of {effect.by!r} could "
                "differ: take another adapter for them, such as KronA."
            )
        # Under a Pooled prior nothing that levels share is learned: it stays where it starts.
        if isinstance(effect.prior, Pooled) and any(factor.starts_at_zero for factor in shared):
            raise ConfigError(
                f"{effect.adapter} has factors that the levels of {effect.by!r} share and that "
                "start at zero: fit it with points ('mle' or 'map'), or take another adapter."
            )

    def _add(
        self,
        name: str,
        factor: Factor,
        prior: Prior,
        key: FactorKey | None,
        start: Tensor,
    ) -> None:
        self.sites[name] = Site(name, tuple(start.shape), factor.unit, start, key)
        module = prior.build(start, factor.unit * factor.spread)
        self.priors[parameter_name(name)] = module
        self._prior_of[name] = module


def level_site(effect: str) -> str:
    """Name the site of an effect's levels."""
    return f"{effect}.levels"


def parameter_name(site: str) -> str:
    """Turn a site's name into one torch accepts for a parameter or module (no dots)."""
    return site.replace(".", "/")
