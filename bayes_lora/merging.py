"""A draw of the adapter's weights merged into the pretrained ones: an ordinary model to serve."""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bayes_lora.backbone import Backbone, BayesianAdapter
from bayes_lora.backbone.adapted_linear import AdaptedLinear
from bayes_lora.errors import ConfigError, UnsupportedError
from bayes_lora.posterior import Posterior


def merged(posterior: Posterior, draw: int | None = None, *, seed: int = 0) -> PreTrainedModel:
    """Merge one set of weights into a copy of the pretrained model.

    The scorer's own weights, such as a class head's, are not the model's and stay behind.

    Args:
        posterior: Fitted with our own adapters, for everybody alike.
        draw: Which draw; None for the posterior mean.
        seed: Of the draws.

    Returns:
        The language model, if the backbone is one, else the model without a head; frozen.

    Raises:
        ConfigError: A negative draw.
        UnsupportedError: The update is no matrix, is another one for each level, or belongs to a
            PEFT model or a quantised layer.
    """
    values = one_draw(posterior, draw, seed)
    backbone = posterior.model.backbone
    if isinstance(backbone, BayesianAdapter):
        raise UnsupportedError("Export a PEFT model with --peft, and merge it with PEFT.")
    if posterior.model.by_level:
        raise UnsupportedError("Levels have weights of their own: one model cannot hold them all.")
    with torch.no_grad(), posterior.model.under(values):
        changes = {
            name: module.matrix_of_updates()
            for name, module in backbone.model.named_modules()
            if isinstance(module, AdaptedLinear)
        }
    return _copy(backbone, changes)


def one_draw(posterior: Posterior, draw: int | None, seed: int) -> dict[str, Tensor]:
    """Give one set of weights, as one entry: a draw, or the mean.

    Raises:
        ConfigError: The draw is negative.
    """
    if draw is None:
        return posterior.draw(0)
    if draw < 0:
        raise ConfigError(f"The first draw is number 0: there is none of number {draw}.")
    drawn = posterior.draw(draw + 1, seed=seed)
    return {name: value[draw:] for name, value in drawn.items()}


def _copy(backbone: Backbone, changes: dict[str, Tensor]) -> PreTrainedModel:
    """Copy a model without what we put into it, and change its weights."""
    root = copy.deepcopy(backbone.language_model or backbone.model)
    adapted = [(n, m) for n, m in root.named_modules() if isinstance(m, AdaptedLinear)]
    for name, module in adapted:
        change = changes[module.name].to(torch.float64)
        base = module.base
        if isinstance(base, Conv1D):
            change = change.T
        elif type(base) is not nn.Linear:
            raise UnsupportedError(f"Layer {name!r} is quantised: merge into the model as it was.")
        base.weight.data = (base.weight.double() + change).to(base.weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(root.get_submodule(parent), child, base)
    if backbone.language_model is not None:
        root.set_output_embeddings(root.get_output_embeddings().base)
    return root
