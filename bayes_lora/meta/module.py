"""What is trained: theta, an amortization, and the scorer's own weights, by episodes."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from bayes_lora.errors import FitError
from bayes_lora.inference.elbo import RowELBO
from bayes_lora.meta.amortization import Amortization
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.hierarchy import Hierarchy, task_rows
from bayes_lora.meta.theta import ThetaGuide


class MetaModule(nn.Module):
    """What the Trainer trains: the negative ELBO of the hierarchy, per support row, in nats.

    Args:
        hierarchy: The program.
        theta: The posterior of what tasks share.
        amortization: From a support set to a task's posterior.
    """

    def __init__(self, hierarchy: Hierarchy, theta: ThetaGuide, amortization: Amortization) -> None:
        super().__init__()
        self.hierarchy = hierarchy
        self.theta = theta
        self.amortization = amortization
        self.elbo = RowELBO(max_plate_nesting=3)
        self.progress = ""

    def forward(self, episodes: Sequence[EpisodeRows]) -> dict[str, Tensor]:
        """Return the loss of a batch of episodes, one of each of T tasks.

        Queries are scored under the posterior that their task's support gives, and stand for as
        many rows as the support has: the ELBO's likelihood, estimated on rows held out from it.
        """
        supports = [episode.support for episode in episodes]
        sizes = [max(1, len(support)) for support in supports]
        queries = [episode.query for episode in episodes]
        rows = task_rows(self.hierarchy.model, queries, supports, draws=1, stand_for=sizes)

        def guide(_: Any) -> None:
            posteriors = self.amortization(self.hierarchy, self.theta(), supports)
            posteriors.sample(self.hierarchy, rows.draws)

        loss = self.elbo.differentiable_loss(self.hierarchy, guide, rows)
        # The program's likelihood has the power 1 / kl_weight; undone, the KL has the weight.
        observations = self.hierarchy.num_tasks * sum(sizes) / len(sizes)
        per_row = self.hierarchy.kl_weight / observations
        likelihood = float(self.elbo.expected_log_likelihood) * per_row
        return self.checked(loss * per_row, f"queries' log-lik. {likelihood:.3f}")

    def checked(self, loss: Tensor, progress: str) -> dict[str, Tensor]:
        """Check a loss, and keep what the progress is to show."""
        self.progress = progress
        if not math.isfinite(float(loss.detach())):
            raise FitError("The loss is no longer finite: lower the learning rate.")
        return {"loss": loss}
