"""Several continuations of a prompt in one sequence: the mask, and if a model keeps to it."""

import inspect
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bayes_lora.backbone import Backbone

_TRIED: WeakKeyDictionary[Backbone, bool] = WeakKeyDictionary()  # what the toy below showed
# Where configurations say how far a token sees, if not to the beginning.
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "local_attention")


def blind_mask(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Make the additive mask under which a token sees its prompt and its own continuation.

    Args:
        part: 0 for the prompt, k + 1 for continuation k, -1 for padding, int64 ``[B, T]``.
        dtype: Of the model.

    Returns:
        Zeros, and the dtype's minimum where a token must not look, ``[B, 1, T, T]``.
    """
    length = part.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=part.device).tril()
    same = part[:, :, None] == part[:, None, :]  # padding sees padding: no empty softmax
    allowed = causal & (same | (part[:, None, :] == 0))
    mask = torch.zeros(allowed.shape, dtype=dtype, device=part.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)


def attention_window(config: PretrainedConfig) -> int | None:
    """Return the least number of tokens any layer sees back, None for all.

    Under a mask of our own a model does not apply its window.
    """
    found = [getattr(config, name, None) for name in WINDOWS]
    return min((width for width in found if isinstance(width, int)), default=None)


def keeps_parts_apart(backbone: Backbone) -> bool:
    """Try a toy: continuations must not see each other, nor depend on where they stand.

    Models that carry a state along, or take positions from where a token stands, do not.
    """
    if backbone not in _TRIED:
        _TRIED[backbone] = _keeps_parts_apart(backbone)
    return _TRIED[backbone]


def _keeps_parts_apart(backbone: Backbone) -> bool:
    assert backbone.language_model is not None
    if "position_ids" not in inspect.signature(backbone.language_model.forward).parameters:
        return False
    try:
        first, leaked = _toy(backbone, (5, 6), (7, 8)), _toy(backbone, (9, 2), (7, 8))
        moved = _toy(backbone, (7, 8), (5, 6))
    except Exception:  # whatever a model says to a mask it does not expect
        return False
    tolerance = 1e-3 if backbone.dtype in (torch.float32, torch.float64) else 0.05
    # The same sizes and kernels: what is masked changes not one bit.
    unseen = torch.equal(first[-2:], leaked[-2:])
    return unseen and torch.allclose(first[-2:], moved[-4:-2], atol=tolerance, rtol=tolerance)


def _toy(backbone: Backbone, one: tuple[int, int], other: tuple[int, int]) -> Tensor:
    """Return log-probabilities, ``[T, vocabulary]``, of a prompt and two continuations."""
    prompt = (1, 2, 3, 4)
    part = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]], device=backbone.device)
    inputs = {
        "input_ids": torch.tensor([[*prompt, *one, *other]], device=backbone.device),
        "position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5]], device=backbone.device),
        "attention_mask": blind_mask(part, backbone.dtype),
    }
    with torch.inference_mode(), backbone.adapted({}, {}):
        return backbone.token_logits(inputs, torch.ones_like(part).bool()).log_softmax(-1)
