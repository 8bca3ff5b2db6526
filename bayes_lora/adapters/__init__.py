"""Adapters by name, one a file."""

from bayes_lora.adapters.base import Adapter, Factor, FrozenLayer, Layers
from bayes_lora.adapters.dora import DoRA
from bayes_lora.adapters.hydra_lora import HydraLoRA
from bayes_lora.adapters.krona import KronA
from bayes_lora.adapters.lora import LoRA, LoRAStart
from bayes_lora.adapters.lora_xs import LoRAXS
from bayes_lora.adapters.masa import MASA, Mixing
from bayes_lora.adapters.mtl_lora import MTLLoRA
from bayes_lora.adapters.multi_lora import MultiLoRA
from bayes_lora.adapters.peft_tensors import PeftTensors
from bayes_lora.adapters.ranked_lora import RankedLoRA
from bayes_lora.adapters.vera import VeRA

ADAPTERS: dict[str, type[Adapter]] = {
    "dora": DoRA,
    "hydra-lora": HydraLoRA,
    "krona": KronA,
    "lora": LoRA,
    "lora-xs": LoRAXS,
    "masa": MASA,
    "mtl-lora": MTLLoRA,
    "multi-lora": MultiLoRA,
    "peft": PeftTensors,
    "ranked-lora": RankedLoRA,
    "vera": VeRA,
}

__all__ = [
    "ADAPTERS",
    "MASA",
    "Adapter",
    "DoRA",
    "Factor",
    "FrozenLayer",
    "HydraLoRA",
    "KronA",
    "Layers",
    "LoRA",
    "LoRAStart",
    "LoRAXS",
    "MTLLoRA",
    "Mixing",
    "MultiLoRA",
    "PeftTensors",
    "RankedLoRA",
    "VeRA",
]
