"""How precisely what a backbone gives is used."""

import torch
from torch import Tensor


def float32_or_wider(values: Tensor) -> Tensor:
    """Widen what a half-precision backbone gives, and leave float64 as it is."""
    return values if values.dtype == torch.float64 else values.float()
