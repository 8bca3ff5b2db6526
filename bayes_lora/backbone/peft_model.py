"""A backbone that PEFT has adapted: its trainable tensors are what is random.

PEFT's layers have weights of their own and know nothing of rows, so each draw has a pass of its
own (``drawn_tensors.py``).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from bayes_lora.adapters import Adapter, Factor, PeftTensors
from bayes_lora.backbone.backbone import Backbone, BackboneKind, FactorKey, Factors, Parts
from bayes_lora.backbone.drawn_tensors import DrawnTensors, in_order
from bayes_lora.backbone.loading import fingerprint, prepared
from bayes_lora.backbone.precision import float32_or_wider
from bayes_lora.backbone.targets import LayerGroup, short_names, without_depth
from bayes_lora.errors import ConfigError, UnsupportedError

if TYPE_CHECKING:
    from peft import PeftModel

FOLDER = "peft"  # of a run
PROMPTS = ("PROMPT_TUNING", "PREFIX_TUNING")  # whose tensors PEFT saves, and not what they make


@dataclass(frozen=True)
class TensorGroup(LayerGroup):
    """Trainable tensors that differ only in depth.

    Args:
        factor: The last part of their name.
        values: Their values when the model was wrapped, ``[layers, *shape]``, float32.
    """

    factor: str
    values: Tensor


class BayesianAdapter(Backbone):
    """A PEFT model whose trainable tensors become Pyro sites, grouped and stacked by layers.

    Give it to ``fit`` in place of a backbone. Priors are centred at the tensors' values, with the
    size of a group's entries for a unit, so a checkpoint that somebody trained is where a
    posterior starts. A pass has one draw; predictions with several take a pass for each.

    Args:
        peft_model: The model, its adapter active and trainable. It is frozen, and used in place.
        tokenizer: Its tokenizer.
        max_length: Longest input in tokens; longer ones are cut.

    Raises:
        ConfigError: Nothing is trainable, or the adapter is merged.
        UnsupportedError: PEFT would not load the tensors again, or use its own for a draw's.
    """

    def __init__(
        self, peft_model: "PeftModel", tokenizer: PreTrainedTokenizerBase, *, max_length: int = 256
    ) -> None:
        model: Any = peft_model  # has what the base model has
        base: Any = peft_model.get_base_model()
        has_head = base.get_output_embeddings() is not None
        virtual = peft_model.active_peft_config.is_prompt_learning
        body = base if base.config.is_encoder_decoder else base.base_model
        if virtual:  # PEFT loads prompts as if they could not be trained further
            model.prompt_encoder.requires_grad_(True)
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        _check(peft_model, trainable)
        super().__init__(
            body if has_head else model,
            tokenizer,
            name=base.name_or_path,
            # What modules_to_save replaces is often random, and never used.
            fingerprint=fingerprint(model, without=".original_module."),
            max_length=prepared(base.config, tokenizer, max_length),
            language_model=model if has_head else None,
            groups=_grouped(trainable, peft_model.active_adapter),
        )
        object.__setattr__(self, "peft_model", peft_model)  # registered already
        self._drawn = DrawnTensors(trainable)
        self._virtual = peft_model.active_peft_config.num_virtual_tokens if virtual else 0
        self._check_drawn()

    peft_model: "PeftModel"

    @classmethod
    def from_peft(
        cls,
        peft_model: "PeftModel",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_length: int = 256,
    ) -> "BayesianAdapter":
        """Wrap a PEFT model.

        Args:
            peft_model: The model, such as ``PeftModel.from_pretrained(..., is_trainable=True)``.
            tokenizer: None for the base model's own, from where the model came from.
            max_length: Longest input in tokens.
        """
        if tokenizer is None:
            name = peft_model.get_base_model().name_or_path
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return cls(peft_model, tokenizer, max_length=max_length)

    def save(self, folder: Path) -> None:
        """Write the PEFT checkpoint that the posterior starts from into a run's folder."""
        self.save_peft(folder / FOLDER)
        self.tokenizer.save_pretrained(folder / FOLDER)

    def save_peft(self, folder: Path) -> None:
        """Write the PEFT checkpoint as it is."""
        self.peft_model.save_pretrained(str(folder), save_embedding_layers=False)

    @contextmanager
    def holding(self, values: Mapping[FactorKey, Tensor]) -> Iterator[None]:
        """Put values, ``[layers, *shape]``, into the model itself inside the ``with`` block."""
        with self._drawn.held(self.tensors(values)):
            yield

    def tensors(self, values: Mapping[FactorKey, Tensor]) -> dict[str, Tensor]:
        """Give each trainable tensor, by its name in PEFT, its part of ``[layers, *shape]``."""
        layers = {(group.name, group.factor): group.layers for group in self._groups()}
        return {
            name: own
            for (_, group, factor), value in values.items()
            for name, own in zip(layers[group, factor], value, strict=True)
        }

    @property
    def base_class(self) -> str:
        """The name of the base model's class in ``transformers``."""
        return type(self.peft_model.get_base_model()).__name__

    @property
    def default_adapter(self) -> Adapter:
        """Return what stands for PEFT's own."""
        return PeftTensors()

    @property
    def row_aligned(self) -> bool:
        """Return False: a pass has one draw."""
        return False

    def train(self, mode: bool = True) -> "BayesianAdapter":
        """Leave all dropout off, PEFT's as well."""
        nn.Module.train(self, False)
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Refuse: a recomputed block would use the model's own tensors, and not the draw."""
        raise UnsupportedError(
            "A PEFT model cannot be fitted with gradient checkpointing: blocks would be recomputed "
            "with PEFT's own tensors in place of the draw. Leave it out, and lower the batch size."
        )

    def parts(
        self, adapter: Adapter, group: LayerGroup, generator: torch.Generator, seed: int
    ) -> Parts:
        """Describe a group of tensors, which start where they are."""
        if not isinstance(adapter, PeftTensors):
            raise ConfigError(
                f"This model has PEFT's adapter already: leave {adapter} out, or give the base "
                "model to load_backbone."
            )
        assert isinstance(group, TensorGroup)
        shape = tuple(group.values.shape[1:])
        # Of entries that are all zero, as LoRA's B in a new model: what keeps B x near 1.
        size = float(group.values.square().mean().sqrt()) or (shape or (1,))[-1] ** -0.5
        factor = Factor(shape, unit=size, starts_at_zero=not group.values.any())
        return Parts({group.factor: factor}, {group.factor: group.values}, {})

    @contextmanager
    def adapted(
        self,
        factors: Factors,
        adapters: Mapping[str, Adapter],
        levels: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Put draws of the tensors in force, as every backbone does."""
        if levels:
            raise UnsupportedError(
                "The rows of a PEFT model cannot have weights of their own: fit an attribute's "
                "levels on the base model, with one of our adapters."
            )
        by_layer = {key: value.transpose(0, 1) for key, value in factors.items()}
        with self._drawn.in_force(self.tensors(by_layer)):
            yield

    @contextmanager
    def rows_using(
        self, entries: Tensor | None, rows: Tensor | None, of_rows: bool = True
    ) -> Iterator[None]:
        """Say which draw each sequence uses, as every backbone does."""
        with self._drawn.using(entries):
            yield

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model without its head, a pass for each draw."""
        if self._virtual and self.language_model is not None:
            raise UnsupportedError(
                "A language model with PEFT's virtual tokens has states of these as well: use the "
                "scorer likelihood."
            )
        length = inputs["input_ids"].shape[1]
        return self._by_draw(self.model, inputs, "last_hidden_state")[:, -length:]

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The labels of the model's own classifier, in the order of its logits; empty: none."""
        if not self.base_class.endswith("ForSequenceClassification"):
            return ()
        labels: dict[int, str] = self.model.config.id2label
        return tuple(labels[i] for i in range(len(labels)))

    def class_logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model with its own classifier, ``[B, labels]``, a pass for each draw."""
        return self._by_draw(self.model, inputs, "logits")

    def encoder_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the encoder of an encoder-decoder, a pass for each draw."""
        return self._by_draw(self.model.get_encoder(), inputs, "last_hidden_state")

    def token_logits(
        self,
        inputs: Mapping[str, Tensor],
        needed: Tensor,
        *,
        tokens: Tensor | None = None,
        encoder_states: Tensor | None = None,
    ) -> Tensor:
        """Run the language model, a pass for each draw, and its head where it is needed."""
        given = {**inputs, "needed": needed}
        if encoder_states is not None:
            given["encoder_states"] = encoder_states
        parts = []
        for rows, tensors, own in self._drawn.passes(given):
            wanted = own.pop("needed")
            logits = self._own_logits(tensors, own, wanted, tokens)
            parts.append((rows.repeat_interleave(wanted.sum(1)), logits))
        return in_order(parts)

    def _by_draw(self, module: nn.Module, inputs: Mapping[str, Tensor], wanted: str) -> Tensor:
        """Call a part of the model once for each draw, and join what is wanted of its output."""
        return in_order(
            [
                (rows, getattr(self._drawn.call(module, tensors, own), wanted))
                for rows, tensors, own in self._drawn.passes(inputs)
            ]
        )

    def _own_logits(
        self, tensors: Mapping[str, Tensor], own: dict[str, Any], needed: Tensor, tokens: Any
    ) -> Tensor:
        """Give the logits of one draw's rows."""
        if "encoder_states" in own:
            states = BaseModelOutput(last_hidden_state=own.pop("encoder_states"))
            own["encoder_outputs"] = states
        assert self.language_model is not None
        virtual = needed.new_zeros(len(needed), self._virtual)
        with self._head.only(torch.cat([virtual, needed], 1), None):
            logits: Tensor = self._drawn.call(self.language_model, tensors, own).logits
        logits = logits if tokens is None else logits[:, tokens]
        return float32_or_wider(logits)

    def _groups(self) -> list[TensorGroup]:
        return [group for group in self.groups if isinstance(group, TensorGroup)]

    def _check_drawn(self) -> None:
        """Run a draw; PEFT must take every tensor from where a draw is put.

        Raises:
            UnsupportedError: It does not: the model's own tensor would be used, silently.
        """
        ids = torch.ones(1, 3, dtype=torch.long, device=self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.kind is BackboneKind.ENCODER_DECODER:
            inputs["decoder_input_ids"] = ids
        unreached = self._drawn.unreached(self.language_model or self.model, inputs)
        if unreached:
            raise UnsupportedError(
                f"PEFT's {self.peft_model.active_peft_config.peft_type} keeps {unreached[0]!r} "
                "where no draw can be put in its place, so there is no posterior over it: use "
                "another tuner, such as LoRA."
            )

    def _check_row_alignment(self) -> None:
        """Every pass has one draw, so that no row can use another's."""


def _check(model: "PeftModel", trainable: Mapping[str, nn.Parameter]) -> None:
    """Check that an adapter's tensors can be drawn.

    Raises:
        ConfigError: They cannot as things are; the message says what to do.
        UnsupportedError: PEFT would not load them again.
    """
    config = model.active_peft_config
    if config.is_prompt_learning and (
        config.peft_type not in PROMPTS or getattr(config, "prefix_projection", False)
    ):
        raise UnsupportedError(
            f"PEFT's {config.peft_type} learns a network that makes its prompts, and saves the "
            "prompts alone: a posterior over it could not be loaded again. Use prompt tuning."
        )
    if not trainable:
        raise ConfigError(
            "The PEFT model has no trainable tensors: load it with "
            "PeftModel.from_pretrained(model, folder, is_trainable=True), and wrap it once."
        )
    if not config.is_prompt_learning and model.get_model_status().merged_adapters:
        raise ConfigError("The PEFT adapter is merged into the model: call unmerge_adapter first.")


def _grouped(trainable: Mapping[str, nn.Parameter], adapter: str) -> list[TensorGroup]:
    """Stack the tensors that differ only in depth."""
    stacks: dict[tuple[str, torch.Size], list[str]] = {}
    for name, parameter in trainable.items():
        parts = [part for part in without_depth(name).split(".") if part != adapter]
        if parts[-1] == "weight" and len(parts) > 1 and "_" in parts[-2]:  # lora_A.weight
            parts.pop()
        stacks.setdefault((".".join(parts), parameter.shape), []).append(name)
    names = short_names([pattern for pattern, _ in stacks])
    groups = []
    for name, layers in zip(names, stacks.values(), strict=True):
        values = torch.stack([trainable[layer].detach().float().clone() for layer in layers])
        group, _, factor = name.rpartition(".")
        groups.append(TensorGroup(group or "peft", tuple(layers), 0, 0, factor, values))
    return groups
