"""How precisely a backbone computes, and what it gives is used."""

import warnings

import torch
from torch import Tensor

from bayes_lora.errors import SpeedWarning

EAGER_LENGTH = 512  # tokens


def float32_or_wider(values: Tensor) -> Tensor:
    """Widen what a half-precision backbone gives, and leave float64 as it is."""
    return values if values.dtype == torch.float64 else values.float()


def multiplies_bfloat16() -> bool:
    """Say whether this machine has products of bfloat16: most GPUs have, and some processors.

    Other processors go through the entries one by one: 45 times float32's time (AVX2, torch 2.13).
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public name for it; its own tests ask this.
    mkldnn = torch.backends.mkldnn.is_available()
    return mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fastest_attention(dtype: torch.dtype, max_length: int) -> str | None:
    """Choose how attention is computed: transformers' name for it, None for its default.

    On a processor the default, a fused kernel, goes back through bfloat16 slowly (docs/results.md
    has figures). Where texts are long it stays: without it memory is quadratic in the length.
    """
    slow = dtype == torch.bfloat16 and not torch.cuda.is_available()
    return "eager" if slow and max_length <= EAGER_LENGTH else None


def warn_if_slow(dtype: torch.dtype) -> None:
    """Warn where a backbone of this dtype is slower here than one of float32.

    Warns:
        SpeedWarning: It is.
    """
    if dtype == torch.bfloat16 and not multiplies_bfloat16():
        warnings.warn(
            "This machine has no products of bfloat16, and takes tens of times as long for them as "
            "for float32: leave dtype at float32 here.",
            SpeedWarning,
            stacklevel=3,
        )
