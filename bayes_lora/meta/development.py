"""What meta-dev tasks are for: when to stop, and how sure the scorer should make."""

import math
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
ROWS_AT_ONCE = 512  # of supports side by side
FOLDS = 4  # of meta-dev tasks, at most
# Of the shift's prior Normal(0, 1) against the mean NLL. Meta-dev tasks are few: without it six
# weights were fitted to their peculiarities (docs/defaults.md).
SHIFT_WEIGHT = 0.03
Scored = tuple[str, TaskRows, dict[str, Tensor]]  # a task's name, its queries, their features


def dev_nlls(module: MetaModule, episodes: Sequence[EpisodeRows]) -> dict[str, float]:
    """Adapt to each episode's support; the queries' NLL in nats, by task the mean over episodes."""
    return _by_task(module, list(_features(module, episodes)))


def fit_shift(module: MetaModule, episodes: Sequence[EpisodeRows]) -> dict[str, float]:
    """Set how far the scorer's own weights are shifted to predict, in place.

    To where meta-dev queries have the least NLL, held back by a prior around no shift. On training
    tasks the backbone knows the classes, so that weights learned there make too sure of new ones.

    Returns:
        Each task's NLL by cross-validation: its queries are judged under the shift that the other
        tasks give, mean over episodes, in nats. Of one task alone, under its own.
    """
    scored = list(_features(module, episodes))
    tasks = list(dict.fromkeys(name for name, *_ in scored))
    folds = [tasks[i::FOLDS] for i in range(min(FOLDS, len(tasks)))]
    found: dict[str, float] = {}
    for held_out in folds:
        _shift_to(module, [one for one in scored if one[0] not in held_out] or scored)
        found |= _by_task(module, [one for one in scored if one[0] in held_out])
    if len(folds) > 1:
        _shift_to(module, scored)
    return {task: found[task] for task in tasks}


def _by_task(module: MetaModule, scored: Sequence[Scored]) -> dict[str, float]:
    tasks = dict.fromkeys(name for name, *_ in scored)
    with torch.no_grad():
        return {
            task: float(_mean_nll(module, [one for one in scored if one[0] == task]))
            for task in tasks
        }


def _shift_to(module: MetaModule, scored: Sequence[Scored]) -> None:
    """Set the shift to its most probable value given some queries."""
    shift = module.hierarchy.shift.requires_grad_()
    values = list(shift.parameters())
    for value in values:
        value.data.zero_()
    optimizer = torch.optim.LBFGS(values, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        prior = torch.stack([value.square().sum() for value in values]).sum() / 2
        total = _mean_nll(module, scored) + SHIFT_WEIGHT * prior
        total.backward(inputs=values)
        return total

    optimizer.step(loss)
    shift.requires_grad_(False)


def _features(module: MetaModule, episodes: Sequence[EpisodeRows]) -> Iterator[Scored]:
    """Adapt, and make the passes that the scorer's own weights are applied to."""
    with torch.no_grad(), poutine.block(), torch.random.fork_rng():
        torch.manual_seed(0)
        for episode, posterior in _adapted(module, episodes):
            yield episode.task, *_pass(module, episode, posterior)


def _adapted(
    module: MetaModule, episodes: Sequence[EpisodeRows]
) -> Iterator[tuple[EpisodeRows, TaskPosteriors]]:
    """Adapt to episodes of equal size side by side, which is faster than one by one."""
    theta = module.theta.predictive()
    for together in _groups(episodes):
        supports = [episode.support for episode in together]
        posteriors = module.amortization(module.hierarchy, theta, supports)
        for i, episode in enumerate(together):
            yield episode, posteriors.only(i)


def _groups(episodes: Sequence[EpisodeRows]) -> Iterator[list[EpisodeRows]]:
    """Episodes with supports of one size, and not more rows than are adapted to at once."""
    in_order = sorted(episodes, key=lambda episode: len(episode.support))
    for size, group in groupby(in_order, key=lambda episode: len(episode.support)):
        equal, most = list(group), max(1, ROWS_AT_ONCE // max(1, size))
        for start in range(0, len(equal), most):
            yield equal[start : start + most]


def _pass(
    module: MetaModule, episode: EpisodeRows, posterior: TaskPosteriors
) -> tuple[TaskRows, dict[str, Tensor]]:
    hierarchy, model = module.hierarchy, module.hierarchy.model
    draws = DRAWS if posterior.scale else 1
    values = posterior.sample(hierarchy, draws)
    rows = task_rows(model, [episode.query], [episode.support], draws=draws)
    with model.under(hierarchy.aligned(values)):
        return rows, dict(model.scorer.features(model.backbone, rows.inputs))


def _mean_nll(module: MetaModule, scored: Sequence[Scored]) -> Tensor:
    head = module.hierarchy.shifted_head()
    losses = []
    for _, rows, features in scored:
        logits = module.hierarchy.model.scorer.score(features, rows.inputs, head)
        by_draw = logits.view(rows.draws, rows.labels.shape[-1], -1).double().log_softmax(-1)
        right = by_draw.gather(2, rows.labels[0].expand(rows.draws, -1).unsqueeze(2))
        losses.append(math.log(rows.draws) - right.logsumexp(0).mean())
    return torch.stack(losses).mean()
