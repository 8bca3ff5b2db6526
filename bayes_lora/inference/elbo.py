"""The ELBO of rows: Pyro's with analytic KL, and what it would compute in vain left out."""

from collections.abc import Collection
from typing import Any

from pyro.infer import TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger

from bayes_lora.terms import TERM_SITES


class RowELBO(TraceMeanField_ELBO):
    """Pyro's ELBO, which keeps the expected log-likelihood for the progress.

    What is observed: labels, and the program's further terms, if it has some.

    Args:
        left_out: Sites whose divergence from the prior the caller adds. Pyro takes the log density
            of every draw of every weight, and the divergence once for each draw: with 8 draws of
            LoRA of rank 128 that is half of a training step.
        settings: Of ``TraceMeanField_ELBO``.
    """

    expected_log_likelihood = 0.0

    def __init__(self, left_out: Collection[str] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self.left_out = frozenset(left_out)

    def _get_trace(self, *arguments: Any) -> Any:
        with _Masked(self.left_out):
            return super()._get_trace(*arguments)

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        nodes = model_trace.nodes
        terms = [nodes[n]["log_prob_sum"].detach() for n in ("label", *TERM_SITES) if n in nodes]
        self.expected_log_likelihood = sum(terms) / self.num_particles
        return super()._differentiable_loss_particle(model_trace, guide_trace)


class _Masked(Messenger):
    """Mask some sites, in model and guide: they are drawn, and have no density."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] in self.names:
            message["fn"] = message["fn"].mask(False)
