"""Encoder amortization: a support set to its posterior in one forward pass (Deep Sets)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayes_lora.errors import UnsupportedError
from bayes_lora.meta.amortization import Amortization, TaskPosteriors
from bayes_lora.meta.hierarchy import Hierarchy
from bayes_lora.meta.theta import Theta, adapter_sites
from bayes_lora.model import BayesianModel, parameter_name
from bayes_lora.scorers import LabelledRows, Row
from bayes_lora.scorers.pooled import PooledScorer, in_blocks


class Encoder(Amortization):
    """A permutation-invariant network from a support set to N(loc, scale^2) of every weight.

    Each support row becomes the embeddings of its input and of its answer's text under mu, and
    their product; a network summarises it, and the mean over rows (Zaheer et al. 2017, arXiv
    1703.06114, theorem 2) and the log of their number become the task's coordinates z. Then
    ``loc = mu + sum_j z_j D_j`` with learned directions D_j in weight space, and ``scale`` is
    tau times a share that depends on the site and the number of rows. Labels are read by their
    text, so there may be any number of options. No gradient step is taken.

    Args:
        model: The program, with a scorer that pools states.
        tau: The scale of theta by site, ``[layers, 1, ...]``: the directions' natural length.
        dimensions: Of z.
        width: Of the hidden layers.
        seed: Of the networks' start.

    Raises:
        UnsupportedError: The scorer does not pool states.
    """

    def __init__(
        self,
        model: BayesianModel,
        tau: dict[str, Tensor],
        *,
        dimensions: int = 16,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(model.scorer, PooledScorer):
            raise UnsupportedError(
                "The encoder reads pooled embeddings, which this scorer does not make: use the "
                "scorer discriminant or similarity, or amortization by gradient."
            )
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.of_row = nn.Sequential(
                nn.Linear(3 * model.backbone.hidden_size, width), nn.GELU(), nn.Linear(width, width)
            )
            coordinates = nn.Linear(width, dimensions)
            self.of_set = nn.Sequential(nn.Linear(width + 1, width), nn.GELU(), coordinates)
        nn.init.zeros_(coordinates.weight)  # a new encoder gives the prior's mean
        nn.init.zeros_(coordinates.bias)
        self.directions = nn.ParameterDict()
        self.shrinkage = nn.ParameterDict()
        for name, site in adapter_sites(model).items():
            noise = torch.randn(dimensions, *site.shape, generator=generator)
            start = noise * tau[name] * dimensions**-0.5
            self.directions[parameter_name(name)] = nn.Parameter(start)
            self.shrinkage[parameter_name(name)] = nn.Parameter(torch.zeros(()))

    def adapt(
        self, hierarchy: Hierarchy, theta: Theta, supports: Sequence[LabelledRows]
    ) -> TaskPosteriors:
        """Encode the supports."""
        sizes = torch.tensor([len(s) for s in supports], device=hierarchy.model.backbone.device)
        coordinates = self._coordinates(hierarchy, theta, supports, sizes)
        loc, scale = {}, {}
        for name, site in hierarchy.sites.items():
            directions = self.directions[parameter_name(name)]
            loc[name] = theta.mean[name] + torch.einsum("tz,z...->t...", coordinates, directions)
            share = self._share(name, sizes).view(-1, *[1] * len(site.shape))
            scale[name] = (theta.scale[name] * share).expand_as(loc[name])
        return TaskPosteriors(loc, scale)

    def _share(self, name: str, sizes: Tensor) -> Tensor:
        """Posterior over prior standard deviation, ``[T]``: ``(1 + n)^(-rate / 2)``."""
        rate = F.softplus(self.shrinkage[parameter_name(name)])
        return (-rate * sizes.float().log1p() / 2).exp()

    def _coordinates(
        self,
        hierarchy: Hierarchy,
        theta: Theta,
        supports: Sequence[LabelledRows],
        sizes: Tensor,
    ) -> Tensor:
        """Encode each support as z, ``[T, dimensions]``."""
        rows = [pair for support in supports for pair in support]
        inputs, answers = self._embed(hierarchy, theta, rows)
        summaries = self.of_row(
            torch.cat([inputs, answers, inputs * answers * inputs.shape[-1] ** 0.5], -1)
        )
        task = torch.repeat_interleave(torch.arange(len(supports), device=sizes.device), sizes)
        total = summaries.new_zeros(len(supports), summaries.shape[-1]).index_add(
            0, task, summaries
        )
        mean = total / sizes.unsqueeze(1)
        return self.of_set(torch.cat([mean, sizes.float().log1p().unsqueeze(1)], -1))

    def _embed(
        self, hierarchy: Hierarchy, theta: Theta, rows: Sequence[tuple[Row, int]]
    ) -> tuple[Tensor, Tensor]:
        """Embed inputs and answers under mu, at length one, ``[rows, d]`` each."""
        model = hierarchy.model
        assert isinstance(model.scorer, PooledScorer)
        texts = [row.ids for row, _ in rows] + [row.options[label] for row, label in rows]
        distinct = {ids: i for i, ids in enumerate(dict.fromkeys(texts))}
        blocks = in_blocks(model.backbone, list(distinct), [0] * len(distinct), "text")
        mean = {name: value.unsqueeze(0) for name, value in theta.mean.items()}
        with model.under(mean | hierarchy.head_values()):
            embedded = F.normalize(model.scorer.embed_all(model.backbone, blocks, "text"), dim=-1)
        places = torch.tensor([distinct[ids] for ids in texts], device=embedded.device)
        inputs, answers = embedded[places].chunk(2)
        return inputs, answers
