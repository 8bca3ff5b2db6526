"""What meta-dev tasks are for: when to stop, and how sure the scorer should make."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pyro import poutine
from torch import Tensor

from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.hierarchy import TaskRows, task_rows

if TYPE_CHECKING:
    from bayes_lora.meta.training import MetaModule

DRAWS = 4  # of a task's weights, with the same noise every time
HEAD_STEPS, HEAD_LEARNING_RATE = 60, 0.1


def dev_nll(module: "MetaModule", episodes: Sequence[EpisodeRows]) -> float:
    """Adapt to each episode's support; mean NLL of the queries, mean over episodes, in nats."""
    losses = []
    for episode in episodes:
        rows, features = _features(module, episode)
        with torch.no_grad():
            losses.append(_nll(module, rows, features))
    return float(torch.stack(losses).mean())


def fit_head(module: "MetaModule", episodes: Sequence[EpisodeRows]) -> None:
    """Set the scorer's own weights to those with the least NLL on meta-dev queries, in place.

    On training tasks the backbone knows the classes, so that weights fitted there make too sure
    of new ones. Tasks adapt with the weights as they were.
    """
    cached = [_features(module, episode) for episode in episodes]
    optimizer = torch.optim.Adam(module.hierarchy.head.parameters(), HEAD_LEARNING_RATE)
    for _ in range(HEAD_STEPS):
        loss = torch.stack([_nll(module, *given) for given in cached]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _features(module: "MetaModule", episode: EpisodeRows) -> tuple[TaskRows, dict[str, Tensor]]:
    """Adapt, and make the passes that the scorer's own weights are applied to."""
    hierarchy, theta = module.hierarchy, module.theta.predictive()
    model = hierarchy.model
    with torch.no_grad(), poutine.block(), torch.random.fork_rng():
        torch.manual_seed(0)
        posterior = module.amortization(hierarchy, theta, [episode.support])
        values = posterior.sample(hierarchy, DRAWS)
        rows = task_rows(model, [episode.query], [episode.support], draws=DRAWS)
        flat = {n: v.reshape(DRAWS, *hierarchy.sites[n].shape) for n, v in values.items()}
        with model.under(flat | hierarchy.head_values()):
            return rows, dict(model.scorer.features(model.backbone, rows.inputs))


def _nll(module: "MetaModule", rows: TaskRows, features: dict[str, Tensor]) -> Tensor:
    head = {name: value.unsqueeze(0) for name, value in module.hierarchy.head.items()}
    logits = module.hierarchy.model.scorer.score(features, rows.inputs, head)
    by_draw = logits.view(rows.draws, rows.labels.shape[-1], -1).double().softmax(-1)
    right = by_draw.mean(0).gather(1, rows.labels[0].unsqueeze(1))
    return -right.log().mean()
