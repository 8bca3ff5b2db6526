"""IVON on the Trainer (Shen et al. 2024; for LoRA Cong et al. 2024, arXiv 2411.04421)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bayes_lora.errors import ConfigError
from bayes_lora.guides import IVON, Guide, MeanFieldGuide
from bayes_lora.inference.running import RUNNING, Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import SVITrainer, fit_svi
from bayes_lora.model import BayesianModel, parameter_name
from bayes_lora.scorers import LabelledRows

# Second derivatives are averaged over 1,000 steps. The papers' 0.99999 leaves them where they start
# for longer than our fits last. Over 40 steps they are mostly noise: on 200 rows of SST-2, 150
# steps more than doubled the scales, and at a rate of 0.1 nothing was learned.
BETA2 = 0.999
CLIP_RADIUS = 1.0  # units a Newton step may go: against the noise of the first ones


def fit_ivon(
    model: BayesianModel,
    guide: MeanFieldGuide,
    train: LabelledRows,
    settings: FitSettings,
    *,
    family: IVON,
    dev: LabelledRows | None = None,
    running: Running = RUNNING,
) -> None:
    """Fit a mean-field guide by IVON, in place.

    The objective is the same ELBO as that of the guide 'mean-field'; its expectation is over one
    draw a pass, so ``settings.draws`` is not looked at, ``settings.accumulate`` passes make as many
    draws a step. Nor are its learning rates and ``max_grad_norm``, which are Adam's.

    Args:
        model: The program, with Normal priors of fixed scale.
        guide: The guide to fit.
        train: Training rows.
        settings: Length, batches, seed.
        family: Learning rate and where the second derivatives start.
        dev: Rows for early stopping.
        running: What it shows, and where it keeps its state.

    Raises:
        ConfigError: ``ivon-opt`` is not installed.
        FitError: The loss stopped being finite.
    """
    moved = _Deviations(model, guide).to(model.backbone.device)
    optimizer = _make_optimizer(model, moved, family)
    fit_svi(
        model,
        moved,
        train,
        replace(settings, draws=1),
        dev=dev,
        running=running,
        trainer=partial(_SamplingTrainer, ivon=optimizer),
    )


class _Deviations(Guide):
    """What IVON moves: deviations from where priors are centred, in each factor's natural size.

    So its decay to zero is the prior's pull, and one size of noise and step suits every site. In
    training a point, to which the optimizer adds the noise; otherwise the posterior around it.

    Args:
        model: The program.
        posterior: The guide that follows the optimizer's mean and precision.
    """

    def __init__(self, model: BayesianModel, posterior: MeanFieldGuide) -> None:
        super().__init__(model)
        self.posterior = posterior
        self.symmetric = posterior.symmetric
        self.deviation = nn.ParameterDict(
            {parameter_name(n): torch.zeros_like(s.start) for n, s in self.sites.items()}
        )

    def sample_sites(self) -> dict[str, Tensor]:
        """Return the point as a draw."""
        return {
            name: pyro.sample(name, dist.Delta(self._place(name), event_dim=len(site.shape)))
            for name, site in self.sites.items()
        }

    def _place(self, name: str) -> Tensor:
        site, deviation = self.sites[name], self.deviation[parameter_name(name)]
        return site.start.to(deviation) + site.unit * deviation

    @property
    def closed(self) -> frozenset[str]:
        """All sites: the optimizer's decay and precision stand for the divergence."""
        return frozenset(self.sites)

    @torch.no_grad()
    def divergence(self, prior: Callable[[str], dist.TorchDistribution]) -> Tensor | float:
        """Return the posterior's, for the progress: it has no gradient."""
        return self.posterior.divergence(prior)

    def draw(self, number: int) -> dict[str, Tensor]:
        """Draw from the posterior, for the evaluation on dev rows."""
        return self.posterior.draw(number)

    def mean(self) -> dict[str, Tensor]:
        """Return the posterior's mean."""
        return self.posterior.mean()

    @torch.no_grad()
    def follow(self, optimizer: Optimizer) -> None:
        """Give the posterior the optimizer's mean and precision, ``ess * (hess + decay)``."""
        for (name, site), group in zip(self.sites.items(), optimizer.param_groups, strict=True):
            key = parameter_name(name)
            precision = group["ess"] * (group["hess"] + group["weight_decay"])
            scale = site.unit * precision.rsqrt()
            self.posterior.loc[key].copy_(self._place(name))
            self.posterior.log_scale[key].copy_(scale.log().view(site.shape))


def _make_optimizer(model: BayesianModel, guide: _Deviations, family: IVON) -> Optimizer:
    """Make IVON: a group a site, each with its prior's precision, shared by ess rows."""
    rows = model.num_rows / model.kl_weight
    groups = []
    for name, site in model.sites.items():
        variance = float(model.prior(name).variance.max())  # one for all entries
        decay = site.unit**2 / variance / rows
        groups.append({"params": [guide.deviation[parameter_name(name)]], "weight_decay": decay})
    optimizer: Optimizer = _the_library().IVON(
        groups,
        lr=family.learning_rate,
        ess=rows,
        hess_init=family.hess_init,
        beta2=BETA2,
        clip_radius=CLIP_RADIUS,
        rescale_lr=False,  # as for LoRA in the authors' code: the rate is that of Newton steps
    )
    optimizer.register_step_post_hook(lambda *_: guide.follow(optimizer))
    return optimizer


def _the_library() -> Any:
    try:
        import ivon
    except ImportError:
        raise ConfigError(
            "The guide 'ivon' needs the library ivon-opt: pip install 'bayes-lora[ivon]'"
        ) from None
    return ivon


class _SamplingTrainer(SVITrainer):
    """A fit whose optimizer adds a draw's noise to the weights for the length of each pass.

    Args:
        ivon: The optimizer, instead of AdamW.
    """

    def __init__(self, *args: Any, ivon: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"optimizers": (ivon, None)})
        self.ivon = ivon

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take the gradients of one pass at one draw."""
        self.ivon.current_step = self.state.global_step  # a fit that goes on: it is in no state
        weights = [weight for group in self.ivon.param_groups for weight in group["params"]]
        for weight in weights:
            # Of this pass alone: IVON averages passes itself. Weights that take no part have one.
            weight.grad = torch.zeros_like(weight)
        with self.ivon.sampled_params(train=True):
            loss = super().training_step(*args, **kwargs)
            for weight in weights:
                weight.grad *= self.current_gradient_accumulation_steps  # the Trainer divides
        return loss
