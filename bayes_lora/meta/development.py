"""What meta-dev tasks are for: when to stop, and how sure the scorer should make."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from pyro import poutine
from torch import Tensor

from bayes_lora.meta.amortization import TaskPosteriors
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.hierarchy import TaskRows, task_rows
from bayes_lora.meta.module import MetaModule

DRAWS = 4  # of a task's weights, with the same noise every time
SHIFT_STEPS, SHIFT_LEARNING_RATE = 60, 0.1
Scored = tuple[TaskRows, dict[str, Tensor]]


def dev_nll(module: MetaModule, episodes: Sequence[EpisodeRows]) -> float:
    """Adapt to each episode's support; mean NLL of the queries, mean over episodes, in nats."""
    with torch.no_grad():
        return float(_mean_nll(module, list(_features(module, episodes))))


def fit_shift(module: MetaModule, episodes: Sequence[EpisodeRows]) -> float:
    """Set how far the scorer's own weights are shifted to predict, in place.

    To where meta-dev queries have the least NLL. On training tasks the backbone knows the classes,
    so that weights learned there make too sure of new ones.

    Returns:
        That NLL: mean over episodes, in nats.
    """
    scored = list(_features(module, episodes))
    shift = module.hierarchy.shift.requires_grad_()
    optimizer = torch.optim.Adam(shift.parameters(), SHIFT_LEARNING_RATE)
    for _ in range(SHIFT_STEPS):
        loss = _mean_nll(module, scored)
        loss.backward(inputs=list(shift.parameters()))
        optimizer.step()
        optimizer.zero_grad()
    shift.requires_grad_(False)
    with torch.no_grad():
        return float(_mean_nll(module, scored))


def _features(module: MetaModule, episodes: Sequence[EpisodeRows]) -> Iterator[Scored]:
    """Adapt, and make the passes that the scorer's own weights are applied to."""
    with torch.no_grad(), poutine.block(), torch.random.fork_rng():
        torch.manual_seed(0)
        for episode, posterior in _adapted(module, episodes):
            yield _pass(module, episode, posterior)


def _adapted(
    module: MetaModule, episodes: Sequence[EpisodeRows]
) -> Iterator[tuple[EpisodeRows, TaskPosteriors]]:
    """Adapt to episodes of equal size side by side, which is faster than one by one."""
    theta = module.theta.predictive()
    in_order = sorted(episodes, key=lambda episode: len(episode.support))
    for _, group in groupby(in_order, key=lambda episode: len(episode.support)):
        together = list(group)
        supports = [episode.support for episode in together]
        posteriors = module.amortization(module.hierarchy, theta, supports)
        for i, episode in enumerate(together):
            yield episode, posteriors.only(i)


def _pass(module: MetaModule, episode: EpisodeRows, posterior: TaskPosteriors) -> Scored:
    hierarchy, model = module.hierarchy, module.hierarchy.model
    draws = DRAWS if posterior.scale else 1
    values = posterior.sample(hierarchy, draws)
    rows = task_rows(model, [episode.query], [episode.support], draws=draws)
    with model.under(hierarchy.aligned(values)):
        return rows, dict(model.scorer.features(model.backbone, rows.inputs))


def _mean_nll(module: MetaModule, scored: Sequence[Scored]) -> Tensor:
    head = module.hierarchy.shifted_head()
    losses = []
    for rows, features in scored:
        logits = module.hierarchy.model.scorer.score(features, rows.inputs, head)
        by_draw = logits.view(rows.draws, rows.labels.shape[-1], -1).double().softmax(-1)
        right = by_draw.mean(0).gather(1, rows.labels[0].unsqueeze(1))
        losses.append(-right.log().mean())
    return torch.stack(losses).mean()
