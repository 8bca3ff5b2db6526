"""The No-U-Turn sampler (Hoffman & Gelman 2014, arXiv 1111.4246), Pyro's, from the MAP on."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.infer
import torch
from torch import Tensor

from bayes_lora.errors import FitWarning, UnsupportedError
from bayes_lora.guides import NUTS, MembersGuide, PointGuide
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import fit_svi
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows

MOST_WEIGHTS = 20_000
MOST_TOKENS = 2**15  # of all rows, which a step takes at once; of MiniLM they fill 5 GiB
# Halves of a chain that agree have a split R-hat near 1 (Gelman et al., Bayesian Data Analysis,
# 3rd edition, section 11.4); of many weights, some exceed the bound by chance.
MOST_R_HAT, MOST_ABOVE = 1.1, 0.01


def fit_nuts(
    model: BayesianModel,
    guide: MembersGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: NUTS,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Fill a guide with a chain's samples, in a random order, so that a few stand for all.

    Args:
        model: The program.
        guide: As many members as there are samples.
        train: Training rows; each step of the chain sees them all.
        settings: Of the fit of the MAP, where the chain starts.
        family: How long the chain is.
        dev: Not looked at: a chain has no best state.
        running: What it shows, and where it keeps its state.

    Raises:
        UnsupportedError: There are too many weights, or too many rows for one pass, or its state
            is to be kept.
        FitError: The loss of the MAP stopped being finite.

    Warns:
        FitWarning: The chain diverged, or its halves do not agree.
    """
    _check_size(model, train)
    if running.folder is not None:
        raise UnsupportedError("A chain of NUTS cannot be resumed: leave out the state's folder.")
    if settings.max_steps == 0:
        return
    start = PointGuide(model).to(next(guide.parameters()))
    fit_svi(model, start, train, settings, running=running)
    labels = torch.tensor(train.labels, device=model.backbone.device)
    batch = model.scorer.collate(model.backbone, train.rows)
    with _sampling(settings.seed):
        chain = pyro.infer.MCMC(
            pyro.infer.NUTS(model),
            family.samples,
            family.warmup,
            initial_params=start.mean(),
            disable_progbar=not running.progress,
        )
        chain.run(batch, labels)
        order = torch.randperm(family.samples)
    _check_chain(chain.diagnostics())
    guide.place({name: own[order] for name, own in chain.get_samples().items()})


def _check_size(model: BayesianModel, train: LabelledRows) -> None:
    weights = sum(site.start.numel() for site in model.sites.values())
    if weights > MOST_WEIGHTS:
        raise UnsupportedError(
            f"NUTS is a reference for up to {MOST_WEIGHTS:,} weights, and this posterior has "
            f"{weights:,}: take LoRA-XS of a small rank and fewer targets, or another guide."
        )
    tokens = len(train) * max(model.scorer.cost(model.backbone, row) for row in train.rows)
    if tokens > MOST_TOKENS:
        raise UnsupportedError(
            f"NUTS takes all training rows at once, {tokens:,} tokens with padding, and at most "
            f"{MOST_TOKENS:,}: give fewer or shorter rows (max_length), or take another guide."
        )


@contextmanager
def _sampling(seed: int) -> Iterator[None]:
    """Seed torch's generators inside the ``with`` block, and leave Pyro's checks out."""
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        yield


def _check_chain(found: dict[str, Any]) -> None:
    """Warn of a chain whose samples are not the posterior's."""
    divergent = len(found.pop("divergences")["chain 0"])
    del found["acceptance rate"]
    r_hat: Tensor = torch.cat([own["r_hat"].flatten() for own in found.values()])
    above = int((~(r_hat <= MOST_R_HAT)).sum())  # a weight that never moved has none
    if divergent:
        warnings.warn(
            f"{divergent} steps of the chain diverged: its samples leave parts of the posterior "
            "out. Take a tighter prior, or a backbone in float32.",
            FitWarning,
            stacklevel=3,
        )
    if above > MOST_ABOVE * len(r_hat):
        warnings.warn(
            f"The chain's halves disagree on {above} of {len(r_hat)} weights (split R-hat above "
            f"{MOST_R_HAT}): take more samples and warmup.",
            FitWarning,
            stacklevel=3,
        )
