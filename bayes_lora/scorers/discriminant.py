"""Linear discriminant analysis with conjugate priors: the conjugate head, and a covariance."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_lora.adapters import Factor
from bayes_lora.scorers.base import Batch
from bayes_lora.scorers.conjugate import Conjugate, totals

# Of the squared length 1 that embeddings have. Rows left out cancel in float32 below 1e-3.
LEAST_SPREAD = 0.01


@dataclass(frozen=True)
class Discriminant(Conjugate):
    """The conjugate head with a covariance within classes that the support informs.

    ``Conjugate`` takes embeddings of one option to vary alike in all directions. Here they vary by
    a covariance that all options share, with an inverse-Wishart prior around a multiple of the
    identity. With W the support's scatter within classes (outer products of ``h_i`` minus the mean
    of its class, summed) and f its degrees of freedom (rows minus classes), the precision's
    posterior mean is proportional to ``(v + f) (l I + W)^-1``, and

        h . m_k - |m_k|^2 / 2   becomes   (1 + f / v) (h . L m_k - m_k . L m_k / 2),

    ``L = l (l I + W)^-1``: directions in which examples of one class differ count less (Gelman et
    al. 2013, Bayesian Data Analysis, section 3.6). The means are as in ``Conjugate``, and W is
    taken around sample means, so the two are not one joint posterior. With at most
    one example of every option W and f are zero, and the two scorers are the same.

    Args:
        **conjugate: The arguments of ``Conjugate``.
        spread: l above ``LEAST_SPREAD``, before ``log_spread`` moves it.
        degrees: v before ``log_degrees`` moves it.
    """

    spread: float = 0.1
    degrees: float = 100.0

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """``log_spread [1]`` and ``log_degrees [1]`` beside the conjugate head's weights."""
        weight = Factor((1,), unit=0.5, starts_at_zero=True)
        return super().factors(hidden_size) | {"log_spread": weight, "log_degrees": weight}

    def affinity(
        self,
        inputs: Tensor,
        means: Tensor,
        features: Mapping[str, Tensor],
        batch: Batch,
        head: Mapping[str, Tensor],
    ) -> Tensor:
        """Say how well inputs ``[B, d]`` fit means ``[B, K, d]``, as the class docstring has it.

        A row of the support is left out of the scatter that it is scored with: its class's
        scatter loses ``u u^T``, u being its residual times ``sqrt(n_k / (n_k - 1))``.
        """
        plain = super().affinity(inputs, means, features, batch, head)
        if not len(batch["support"]):
            return plain
        task, tasks = batch["task"], int(batch["task"].max()) + 1
        residuals, counts = _residuals(features["bank"], batch)
        spread = LEAST_SPREAD + _of_tasks(head["log_spread"].exp() * self.spread, tasks)
        degrees = _of_tasks(head["log_degrees"].exp() * self.degrees, tasks)
        whitener = _whitener(residuals, batch["support_task"], spread)
        u, left_out = _own(residuals, counts, batch["own"])
        x, m, q = (_whiten(v, whitener) for v in (inputs.unsqueeze(1), means, u.unsqueeze(1)))
        fit = plain - (x * m).sum(-1) + m.square().sum(-1) / 2
        of_x = (inputs * u).sum(-1, keepdim=True) - (x * q).sum(-1)  # u . L h, [B, 1]
        of_m = (means @ u.unsqueeze(-1)).squeeze(-1) - (m * q).sum(-1)  # u . L m_k, [B, K]
        of_u = u.square().sum(-1, keepdim=True) - q.square().sum(-1)  # u . L u, [B, 1]
        fit = fit + (of_x * of_m - of_m.square() / 2) / (spread[task] - of_u)  # Sherman, Morrison
        freedom = spread.new_zeros(tasks).index_add(0, batch["support_task"], 1 - 1 / counts)
        return fit * (1 + (freedom[task] - left_out).unsqueeze(1) / degrees[task])


def _residuals(bank: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Subtract its class's mean from each support row, ``[S, d]``; and class sizes, ``[S]``."""
    support, answer = bank[batch["support"]], batch["answer"]
    sums, counts = totals(support, answer, len(bank))
    return support - sums[answer] / counts[answer].unsqueeze(1), counts[answer]


def _own(residuals: Tensor, counts: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Find each row's u ``[B, d]`` and the degrees of freedom it takes along, 0 or 1, ``[B]``.

    Both are zero for a row that is not in the support, and for the only one of its class.
    """
    size = torch.where(own >= 0, counts[own.clamp(min=0)], 0.0)
    factor = torch.where(size > 1, size / (size - 1), 0.0).sqrt()
    return residuals[own.clamp(min=0)] * factor.unsqueeze(1), (size > 1).to(factor)


def _of_tasks(weight: Tensor, tasks: int) -> Tensor:
    """Give each task its draw's weight, ``[tasks, 1]``."""
    return weight.repeat_interleave(tasks // len(weight), 0)


def _whitener(residuals: Tensor, tasks: Tensor, spread: Tensor) -> Tensor:
    """Find Q ``[T, N, d]`` with ``l (l I + W)^-1 = I - Q^T Q``, by Woodbury's identity.

    Args:
        residuals: The support's, ``[S, d]``, task by task.
        tasks: Which task each is of, ``[S]``.
        spread: l of each task, ``[T, 1]``.
    """
    sizes = torch.bincount(tasks, minlength=len(spread))
    firsts = sizes.cumsum(0) - sizes
    places = torch.arange(len(tasks), device=tasks.device) - firsts[tasks]
    rows = residuals.new_zeros(len(spread), int(sizes.max()), residuals.shape[-1])
    rows = rows.index_put((tasks, places), residuals)
    eye = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    root = torch.linalg.cholesky(rows @ rows.mT + spread.unsqueeze(-1) * eye)
    return torch.linalg.solve_triangular(root, rows, upper=False)


def _whiten(vectors: Tensor, whitener: Tensor) -> Tensor:
    """Multiply vectors of rows ``[B, n, d]``, task by task, by their task's Q; ``[B, n, N]``."""
    by_task = vectors.reshape(len(whitener), -1, vectors.shape[-1])
    return (by_task @ whitener.mT).view(*vectors.shape[:2], -1)
