"""Adapters by name, one a file."""

from bayes_lora.adapters.base import Adapter, Factor
from bayes_lora.adapters.krona import KronA
from bayes_lora.adapters.lora import LoRA

ADAPTERS: dict[str, type[Adapter]] = {"krona": KronA, "lora": LoRA}

__all__ = ["ADAPTERS", "Adapter", "Factor", "KronA", "LoRA"]
