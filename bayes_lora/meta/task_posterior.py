"""One task's posterior, and its small file: what differs from theta, and the support."""

import copy
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bayes_lora.errors import RunFolderError
from bayes_lora.files import atomic_file
from bayes_lora.guides import Guide
from bayes_lora.meta.theta import Values
from bayes_lora.model import BayesianModel, parameter_name
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import PosteriorConfig
from bayes_lora.scorers import LabelledRows, Row


class TaskGuide(Guide):
    """Normals over a task's adapter weights; the scorer's own weights are what all tasks share.

    Args:
        model: The program.
        loc: Means by site, ``[*shape]``.
        scale: Standard deviations by site; empty for a point.
        head: The scorer's weights by site.
    """

    def __init__(self, model: BayesianModel, loc: Values, scale: Values, head: Values) -> None:
        super().__init__(model)
        self.most_draws = None if scale else 1
        self.loc, self.scale, self.head = _fixed(loc), _fixed(scale), _fixed(head)

    def sample_sites(self) -> dict[str, Tensor]:
        """Draw the adapter's weights; the head is always the same."""
        return {name: pyro.sample(name, self._distribution(name)) for name in self.sites}

    def mean(self) -> Values:
        """Return every site's mean."""
        values = {**self.loc, **self.head}
        return {name: values[parameter_name(name)] for name in self.sites}

    def _distribution(self, name: str) -> dist.TorchDistribution:
        key = parameter_name(name)
        if key in self.head or not self.random:
            value = (self.head if key in self.head else self.loc)[key]
            return dist.Delta(value, event_dim=value.dim())
        return dist.Normal(self.loc[key], self.scale[key]).to_event(self.loc[key].dim())


class TaskPosterior(Posterior):
    """A task's posterior: draws and predicts like any other, and is saved as one small file.

    Args:
        model: The program of all tasks.
        guide: The task's guide.
        support: What it was adapted on.
        config: What it is; its scorer knows the support.
        theta: Fingerprint of what it was adapted from, which its file refers to.
    """

    def __init__(
        self,
        model: BayesianModel,
        guide: TaskGuide,
        support: LabelledRows,
        config: PosteriorConfig,
        theta: str,
    ) -> None:
        own = copy.copy(model)  # shares everything but the scorer
        own.scorer = config.scorer
        super().__init__(own, guide, config)
        self.own = guide
        self.support = support
        self.theta = theta

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the posterior as one file, all of it or nothing; theta stays where it is.

        Args:
            folder: The file, ``<task>.safetensors``: ``MetaPosterior.load_task`` reads it.

        Raises:
            ConfigError: The file cannot be written.
        """
        tensors = {}
        if self.support:  # without any, the posterior is the prior
            tensors = {f"loc.{n}": v.contiguous().cpu() for n, v in self.own.loc.items()}
            tensors |= {f"scale.{n}": v.contiguous().cpu() for n, v in self.own.scale.items()}
        described = {
            "theta": self.theta,
            "support": json.dumps([asdict(row) for row in self.support.rows]),
            "labels": json.dumps(list(self.support.labels)),
        }
        with atomic_file(Path(folder)) as unfinished:
            safetensors.torch.save_file(tensors, unfinished, metadata=described)


def read_task(path: Path, theta: str, sites: Iterable[str]) -> tuple[Values, Values, LabelledRows]:
    """Read a task's file: means and scales by site (none: the prior's), and the support.

    Args:
        path: The file.
        theta: Fingerprint of the theta it must belong to.
        sites: The adapter's sites.

    Raises:
        RunFolderError: It cannot be read, or belongs to another theta.
    """
    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if described["theta"] != theta:
            raise RunFolderError(
                f"{path} was adapted from another theta than this run's: adapt its task again."
            )
        rows = [_row(described) for described in json.loads(described["support"])]
        labels = json.loads(described["labels"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunFolderError(f"{path} cannot be read as a task's posterior: {error!r}") from error
    by_site = {parameter_name(site): site for site in sites}
    loc, scale = (
        {by_site[n.removeprefix(kind)]: v for n, v in tensors.items() if n.startswith(kind)}
        for kind in ("loc.", "scale.")
    )
    return loc, scale, LabelledRows(rows, labels)


def _row(described: dict[str, Any]) -> Row:
    options = tuple(tuple(ids) for ids in described["options"])
    return Row(tuple(described["ids"]), options, described["cut"])


def _fixed(values: Values) -> nn.ParameterDict:
    kept = {parameter_name(name): value.detach().clone() for name, value in values.items()}
    return nn.ParameterDict({k: nn.Parameter(v, requires_grad=False) for k, v in kept.items()})
