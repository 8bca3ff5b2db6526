"""The trainable tensors of a PEFT model, which computes with them itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer
from bayes_lora.errors import ConfigError


@dataclass(frozen=True)
class PeftTensors(Adapter):
    """Stands for whatever adapter a PEFT model has; only its backbone knows the tensors."""

    @property
    def product(self) -> tuple[str, str] | None:
        """LoRA's tensors, where PEFT's adapter is LoRA."""
        return "lora_B", "lora_A"

    def factors(self, d_in: int, d_out: int) -> dict[str, Factor]:
        """None by itself."""
        return {}

    def update(self, x: Tensor, factors: Mapping[str, Tensor], layer: FrozenLayer) -> Tensor:
        """Refuse: PEFT's own layers compute it."""
        raise ConfigError(
            "The adapter 'peft' is that of a PEFT model: fit BayesianAdapter.from_peft(peft_model)."
        )
