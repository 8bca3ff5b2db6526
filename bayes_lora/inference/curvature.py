"""The curvature of the log-likelihood at a point: the generalised Gauss-Newton matrix, in parts.

For a softmax it is the Fisher information of the labels given the rows: the sum over rows of
``J^T (diag(p) - p p^T) J``, J the logits' derivatives and p the options' probabilities (Martens
2020, arXiv 1412.1193). J is never formed: a derivative of every row is made, summed up and gone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.guides import KroneckerLaplaceGuide, LaplaceGuide
from bayes_lora.guides.laplace import as_matrices
from bayes_lora.model import BayesianModel, Site
from bayes_lora.row_gradients import row_passes
from bayes_lora.scorers import Row

MOST_OPTIONS = 8  # up to which all labels count with their probability
LABELS = 4  # drawn for a row with more options


@dataclass(frozen=True)
class Curvature:
    """A site's curvature, float64, by its eigenvectors.

    Args:
        values: Eigenvalues, ``[..., m, n]``, nats per squared weight.
        left: Eigenvectors as columns, ``[..., m, m]``; None: the weights themselves.
        right: Likewise, ``[..., n, n]``.
    """

    values: Tensor
    left: Tensor | None = None
    right: Tensor | None = None


class _Sum(ABC):
    """A site's sum over columns, one at a time, of what its curvature is made of."""

    @abstractmethod
    def add(self, gradients: Tensor) -> None:
        """Add the gradients of rows, ``[B, ..., m, n]``."""

    @abstractmethod
    def curvature(self) -> Curvature:
        """Decompose what was added."""


class _Squares(_Sum):
    """The diagonal."""

    squares: Tensor | float = 0.0

    def add(self, gradients: Tensor) -> None:
        self.squares = self.squares + gradients.square().sum(0).double()

    def curvature(self) -> Curvature:
        assert isinstance(self.squares, Tensor)
        return Curvature(self.squares)


class _Products(_Sum):
    """The nearest Kronecker product, after one step from the identity.

    Of gradients g, ``[m, n]``, the sum of ``vec(g) vec(g)^T`` becomes the sum of ``g g^T`` times
    that of ``g^T g``, scaled so that the trace stays the sum of squares. It is exact where all g
    are of rank one and share one of the two vectors up to a factor, as a head with one row does
    and one of two options, whose rows are opposite.
    """

    left: Tensor | float = 0.0
    right: Tensor | float = 0.0

    def add(self, gradients: Tensor) -> None:
        by_layer = gradients.movedim(0, -3)  # [..., B, m, n]
        tall = by_layer.flatten(-3, -2)  # [..., B * m, n]
        wide = by_layer.transpose(-3, -2).flatten(-2)  # [..., m, B * n]
        self.left = self.left + (wide @ wide.transpose(-1, -2)).double()
        self.right = self.right + (tall.transpose(-1, -2) @ tall).double()

    def curvature(self) -> Curvature:
        assert isinstance(self.left, Tensor)
        assert isinstance(self.right, Tensor)
        (a, left), (b, right) = torch.linalg.eigh(self.left), torch.linalg.eigh(self.right)
        a, b = a.clamp(min=0), b.clamp(min=0)
        trace = b.sum(-1)[..., None, None].clamp(min=torch.finfo(b.dtype).tiny)
        return Curvature(a.unsqueeze(-1) * b.unsqueeze(-2) / trace, left, right)


def measure_curvature(
    model: BayesianModel,
    guide: LaplaceGuide,
    rows: Sequence[Row],
    *,
    seed: int = 0,
    progress: Callable[[int], object] = lambda rows: None,
) -> dict[str, Curvature]:
    """Sum the curvature of the rows' log-likelihoods at a guide's mean, in one pass over them.

    Args:
        model: The program; its likelihood is a softmax.
        guide: Says where, of which entries, and whether diagonal or a product.
        rows: Training rows.
        seed: Of the labels drawn for rows of more than 8 options; of fewer, all count.
        progress: Called with the number of rows done, after each pass.

    Returns:
        Of each random site, the curvature of ``log p(labels | weights)``, not tempered.
    """
    kind = _Products if isinstance(guide, KroneckerLaplaceGuide) else _Squares
    sums: dict[str, _Sum] = {name: kind() for name in guide.first_random}
    generator = torch.Generator().manual_seed(seed)
    for run in row_passes(model, guide.mean(), rows, first=guide.first_random):
        columns = information_columns(run.logits.detach(), generator)
        for i, column in enumerate(columns):
            derivatives = run.derivative(column, last=i == len(columns) - 1)
            _add(sums, model.sites, derivatives)
        progress(len(run.places))
    return {name: own.curvature() for name, own in sums.items()}


def _add(
    sums: Mapping[str, _Sum], sites: Mapping[str, Site], derivatives: Mapping[str, Tensor]
) -> None:
    for name, own in derivatives.items():
        sums[name].add(as_matrices(sites[name], own))


def information_columns(logits: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Give combinations of logits whose squares add up to their Fisher information.

    Args:
        logits: ``[B, options]``; minus infinity: no such option.
        generator: Of labels, on the CPU.

    Returns:
        Coefficients, ``[B, options]`` each: exact up to 8 options, one less than there are
        options; of more, unbiased, of labels drawn from the model's own probabilities.
    """
    probabilities = logits.double().softmax(-1)
    exact = logits.shape[1] <= MOST_OPTIONS
    columns = _exact(probabilities) if exact else _drawn(probabilities, generator)
    return [column.to(logits) for column in columns]


def _exact(probabilities: Tensor) -> Iterator[Tensor]:
    """Yield the columns of the Cholesky factor of diag(p) - p p^T (Tanabe & Sagae 1992)."""
    rest = probabilities.flip(1).cumsum(1).flip(1).clamp(min=torch.finfo(torch.double).tiny)
    for k in range(probabilities.shape[1] - 1):
        own, after = probabilities[:, k], rest[:, k + 1]
        column = -probabilities * (own / rest[:, k] / after).sqrt().unsqueeze(1)
        column[:, :k] = 0.0
        column[:, k] = (own / rest[:, k] * after).sqrt()
        yield column


def _drawn(probabilities: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the gradients of drawn labels' log-probabilities."""
    labels = torch.multinomial(probabilities.cpu(), LABELS, replacement=True, generator=generator)
    for label in labels.to(probabilities.device).unbind(1):
        drawn = torch.nn.functional.one_hot(label, probabilities.shape[1])
        yield (drawn - probabilities) / LABELS**0.5
