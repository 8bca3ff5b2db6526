"""Stein variational gradient descent (Liu & Wang 2016, arXiv 1608.04471, algorithm 1).

Particles take AdamW steps along Stein's direction in place of each one's own gradient. Distances
are over all sites at once, each in units of its natural size.
"""

import math

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback

from bayes_lora.guides import SVGD, MembersGuide
from bayes_lora.inference.members import Direction, MembersTrainer, members_trainer
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import run_trainer, sharing_rows
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows

# How far from the first particle the others start, in units of each factor's natural size; of
# equal particles none would ever repel another.
SPREAD = 0.12


class Stein(Direction):
    """Turns gradients of the particles' losses into Stein's direction.

    Args:
        model: The program, whose loss is ``-kl_weight / N`` times the log posterior density.
        guide: The particles.
    """

    def __init__(self, model: BayesianModel, guide: MembersGuide) -> None:
        super().__init__(guide)
        self.weight = model.kl_weight / model.num_rows
        self.units = {name: site.unit for name, site in model.sites.items()}

    def change(self, gradients: dict[str, Tensor]) -> None:
        """Replace the gradients; those of a single particle stay as they are."""
        values = self.guide.values()
        places = _flat([values[name] / self.units[name] for name in gradients])
        losses = _flat([own * self.units[name] for name, own in gradients.items()])
        direction = stein_direction(places, losses / -self.weight) * -self.weight
        parts = direction.split([own[0].numel() for own in gradients.values()], dim=1)
        for (name, own), part in zip(gradients.items(), parts, strict=True):
            own.copy_(part.view_as(own) / self.units[name])


def stein_direction(places: Tensor, scores: Tensor) -> Tensor:
    """Give the direction in which particles move (equation 8), with an RBF kernel.

    Its bandwidth is the squared median distance between two particles over the log of their
    number, so that each one's neighbours weigh about as much as itself (section 5).

    Args:
        places: Of the particles, ``[M, D]``.
        scores: The log density's gradients there, ``[M, D]``.

    Returns:
        ``[M, D]``.
    """
    count = len(places)
    if count == 1:
        return scores
    squares = torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist").square()
    pairs = squares[~torch.eye(count, dtype=torch.bool, device=squares.device)]
    bandwidth = pairs.median().clamp(min=torch.finfo(places.dtype).tiny) / math.log(count)
    kernel = (-squares / bandwidth).exp()
    # Sum over j of the gradient of k(x_j, x_i) by x_j.
    repulsion = (kernel.sum(1, keepdim=True) * places - kernel @ places) * (2 / bandwidth)
    return (kernel @ scores + repulsion) / count


def fit_svgd(
    model: BayesianModel,
    guide: MembersGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: SVGD,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Fit the particles, in place; a single one ends at the posterior's mode.

    Args:
        model: The program.
        guide: The particles.
        train: Training rows.
        settings: How; ``batch_size`` is the rows of each particle, and ``draws`` is not looked at.
        family: Not looked at.
        dev: Rows for early stopping; without them the fit runs its full length.
        running: What it shows, and where it keeps its state.

    Raises:
        FitError: The loss stopped being finite.
    """
    guide.place(_starts(model, guide.members, settings.seed))
    if settings.max_steps == 0:
        return
    stopping = [EarlyStoppingCallback(settings.patience)] if dev else []
    with sharing_rows(model, settings, running) as state:
        trainer = members_trainer(
            MembersTrainer,
            model,
            guide,
            train,
            settings,
            state,
            dev=dev,
            callbacks=[*stopping, Stein(model, guide)],
        )
        run_trainer(trainer, state, running)


def _starts(model: BayesianModel, members: int, seed: int) -> dict[str, Tensor]:
    """Put the first particle where the program starts, and the others around it."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, site in model.sites.items():
        noise = torch.randn(members, *site.shape, generator=generator, dtype=site.start.dtype)
        noise[0] = 0.0
        found[name] = site.start + SPREAD * site.unit * noise
    return found


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], dim=1)
