"""Adapters by name, one a file."""

from bayes_lora.adapters.base import Adapter, Factor
from bayes_lora.adapters.lora import LoRA

ADAPTERS: dict[str, type[Adapter]] = {"lora": LoRA}

__all__ = ["ADAPTERS", "Adapter", "Factor", "LoRA"]
