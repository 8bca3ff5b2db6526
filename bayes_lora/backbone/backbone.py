"""A frozen transformer that takes adapter weights as an argument, row by row."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from bayes_lora.adapters import Adapter, Factor, Layers, LoRA
from bayes_lora.backbone.adapted_linear import (
    ActiveUpdates,
    AdaptedLinear,
    Sequences,
    Update,
    wrap_layers,
)
from bayes_lora.backbone.head import SelectiveHead
from bayes_lora.backbone.precision import float32_or_wider
from bayes_lora.backbone.targets import LayerGroup, find_layer_groups
from bayes_lora.backbone.tokens import (
    TokenIds,
    Tokenized,
    option_tokens,
    target_tokens,
    tokenize,
)
from bayes_lora.errors import ConfigError, UnsupportedError

# What a backbone is called with: (effect, layer group, factor) to values [R, layers, *shape].
FactorKey = tuple[str, str, str]
Factors = Mapping[FactorKey, Tensor]


class BackboneKind(StrEnum):
    """What a pretrained model is, and so which scorers fit it."""

    ENCODER = "encoder"
    DECODER = "decoder"
    ENCODER_DECODER = "encoder-decoder"


@dataclass(frozen=True)
class Parts:
    """An adapter in a group of layers; tensors are stacked over these.

    Args:
        factors: What may be random.
        starts: Where that starts.
        constants: What nobody learns.
    """

    factors: dict[str, Factor]
    starts: dict[str, Tensor]
    constants: dict[str, Tensor]


class Backbone(nn.Module):
    """A frozen ``transformers`` model with adapted linear layers.

    Args:
        model: The pretrained model without its head (an encoder-decoder: with it); it is frozen,
            and its target layers are wrapped in place.
        tokenizer: Its tokenizer.
        name: What the user called it: a hub name, a path, or ``minilm``.
        fingerprint: Identifies the pretrained weights (see ``fingerprint``).
        targets: Which layers to adapt, as PEFT's ``target_modules`` (see ``find_layer_groups``).
        max_length: Longest input in tokens; longer ones are cut.
        language_model: ``model`` with its language-modelling head, if it has one.
        pooling: How states become one vector: their ``mean``, the ``first`` token's or the
            ``last`` one's; None for the mean (encoders) or the last (decoders).
        groups: What is adapted already, and not to be wrapped; None: the targets.

    Raises:
        ConfigError: No layer matches the targets.
        UnsupportedError: A target layer does not see rows of tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        fingerprint: str,
        targets: str | Sequence[str] | None = None,
        max_length: int = 256,
        language_model: PreTrainedModel | None = None,
        pooling: str | None = None,
        groups: Sequence[LayerGroup] | None = None,
    ) -> None:
        super().__init__()
        self._active = ActiveUpdates()
        self._constant_below: Mapping[FactorKey, int] = {}
        self.groups = find_layer_groups(model, targets) if groups is None else list(groups)
        self.model = model.requires_grad_(False).eval()
        self.language_model = language_model
        self.pooling = pooling or ("last" if self.kind is BackboneKind.DECODER else "mean")
        if language_model is not None:
            language_model.requires_grad_(False).eval()
            self._head = SelectiveHead(language_model.get_output_embeddings())
            language_model.set_output_embeddings(self._head)
        self.tokenizer = tokenizer
        tokenizer.padding_side = "right"  # absolute positions must not depend on the batch
        self.name = name
        self.targets = targets if targets is None or isinstance(targets, str) else list(targets)
        self.fingerprint = fingerprint
        self.max_length = max_length
        self._checkpointed: set[nn.Module] = set()
        if groups is None:
            wrap_layers(model, [n for own in self.groups for n in own.layers], self._active)
        self._option_tokens: dict[tuple[tuple[str, ...], str, str], list[TokenIds]] = {}
        self.eval()  # a new layer would drop out
        self._check_row_alignment()

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden states."""
        return self.model.config.hidden_size

    @property
    def kind(self) -> BackboneKind:
        """Encoder, decoder or encoder-decoder."""
        config = self.model.config
        if getattr(config, "is_encoder_decoder", False):
            return BackboneKind.ENCODER_DECODER
        is_encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        return BackboneKind.ENCODER if is_encoder else BackboneKind.DECODER

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the backbone's floating-point weights."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where the backbone's weights lie."""
        return next(self.model.parameters()).device

    def train(self, mode: bool = True) -> "Backbone":
        """Switch adapter dropout and checkpointing; the pretrained model's own dropout stays off.

        The likelihood must be a function of weights and inputs alone, or its posterior is
        not the one of the model that predicts.
        """
        super().train(False)
        for module in self.model.modules():
            if isinstance(module, AdaptedLinear) or module in self._checkpointed:
                module.training = mode  # this module alone: the dropout layers below stay off
        return self

    def enable_gradient_checkpointing(self) -> None:
        """Trade time for memory: recompute each block in the backward pass, with its own draws."""
        settings = {"use_reentrant": False, "context_fn": self._active.checkpoint_contexts}
        if hasattr(self.model, "activation_checkpointing_enable"):  # transformers >= 5.20
            self.model.activation_checkpointing_enable(settings)
        else:
            self.model.gradient_checkpointing_enable(settings)
        self._checkpointed = {
            m for m in self.model.modules() if hasattr(m, "gradient_checkpointing")
        }
        for module in self._checkpointed:  # some blocks (OPT's) drop out by a rate of their own
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0  # type: ignore[assignment]

    def encode(
        self,
        texts: Sequence[str],
        tails: Sequence[str] | None = None,
        reserves: Sequence[int] | None = None,
    ) -> list[Tokenized]:
        """Turn texts into token ids of at most ``max_length``, not yet padded.

        Args:
            texts: Texts, each cut where it is too long; of a text in parts, the longest is cut.
            tails: What follows each text and is never cut.
            reserves: How many tokens are to be left free behind each.

        Raises:
            ConfigError: A tail leaves no room for its text.
        """
        lengths = [self.max_length - reserve for reserve in reserves or [0] * len(texts)]
        return tokenize(self.tokenizer, texts, tails or [""] * len(texts), lengths)

    def encode_options(self, options: Sequence[str], after: str, glue: str) -> list[TokenIds]:
        """Give the tokens that ``glue`` and each option add to a text ending in ``after``.

        Raises:
            InputDataError: An option adds no token, an unknown one, or changes those before it.
        """
        key = (tuple(options), after, glue)
        if key not in self._option_tokens:  # asked for by several checks before they are scored
            self._option_tokens[key] = option_tokens(self.tokenizer, options, after, glue)
        return self._option_tokens[key]

    def encode_targets(self, options: Sequence[str]) -> list[TokenIds]:
        """Give the tokens of each option as an encoder-decoder's target, special ones included.

        Raises:
            InputDataError: An option has no token but special ones, or an unknown one.
        """
        return target_tokens(self.tokenizer, options)

    def collate(self, sequences: Sequence[TokenIds]) -> dict[str, Tensor]:
        """Pad sequences to the longest; ``input_ids`` and ``attention_mask``, ``[B, T]``."""
        inputs = [{"input_ids": list(ids)} for ids in sequences]
        padded = self.tokenizer.pad(inputs, return_tensors="pt")
        return {key: padded[key].to(self.device) for key in ("input_ids", "attention_mask")}

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        factors: Factors,
        adapters: Mapping[str, Adapter],
    ) -> Tensor:
        """Run the backbone, each group of rows with adapter weights of its own.

        Args:
            inputs: ``input_ids`` and ``attention_mask``, ``[B, T]``, and what else the model takes.
            factors: Values ``[R, layers, *shape]``; R divides B, and rows ``i * B / R`` to
                ``(i + 1) * B / R`` use entry i. Empty: the pretrained model exactly.
            adapters: Effect name to its adapter.

        Returns:
            Last hidden states, ``[B, T, hidden_size]``, in the backbone's dtype.
        """
        with self.adapted(factors, adapters):
            return self.states(inputs)

    @contextmanager
    def adapted(
        self,
        factors: Factors,
        adapters: Mapping[str, Adapter],
        levels: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> Iterator[None]:
        """Put adapter weights in force for the passes inside the ``with`` block.

        Args:
            factors: Values ``[R, layers, *shape]``; R divides the number of rows B of every pass,
                and rows ``i * B / R`` to ``(i + 1) * B / R`` use entry i. Where there are fewer
                entries than layers, adjacent layers share one.
            adapters: Effect name to its adapter.
            levels: Of effects that differ by level: which entry each row uses, int64 ``[B]``, of
                the factors that start at zero; what their other factors hold, levels share.
            weights: Effect name to what its update is multiplied by; 1 where none is given.
        """
        with self._active.use(self._by_layer(factors, adapters, levels or {}, weights or {})):
            yield

    @contextmanager
    def rows_using(
        self, entries: Tensor | None, rows: Tensor | None, of_rows: bool = True
    ) -> Iterator[None]:
        """Say how the sequences of the passes in the ``with`` block belong to the batch's rows.

        Args:
            entries: Which entry of ``adapted`` each sequence uses, int64; they need not be in
                order or equally many for each entry. None: they are.
            rows: Which row each sequence is, int64. None: equally many for each row, in order.
            of_rows: False for texts that rows share, which no level has weights for.
        """
        with self._active.use(self._active.by_layer, Sequences(entries, rows, of_rows)):
            yield

    @contextmanager
    def constant_below(self, first: Mapping[FactorKey, int]) -> Iterator[None]:
        """Derive by no entry of a factor below that of this number, inside the ``with`` block.

        Backward passes then end at the lowest layer that is derived by.
        """
        previous, self._constant_below = self._constant_below, first
        try:
            yield
        finally:
            self._constant_below = previous

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run an encoder or a decoder; last hidden states, ``[B, T, hidden_size]``."""
        return self.model(**inputs).last_hidden_state

    def encoder_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the encoder of an encoder-decoder; states ``[B, T, hidden_size]``."""
        return self.model.get_encoder()(**inputs).last_hidden_state

    def token_logits(
        self,
        inputs: Mapping[str, Tensor],
        needed: Tensor,
        *,
        tokens: Tensor | None = None,
        encoder_states: Tensor | None = None,
    ) -> Tensor:
        """Run the language model, and its head where logits are needed and nowhere else.

        Args:
            inputs: What the model takes.
            needed: Positions of the next-token logits wanted, bool ``[N, T]``.
            tokens: Vocabulary ids ``[K]`` to score; None for the whole vocabulary.
            encoder_states: Of an encoder-decoder, so that its encoder does not run again.

        Returns:
            Logits ``[P, K or vocabulary]``, float32 or wider, row by row.
        """
        assert self.language_model is not None
        given: dict[str, Any] = dict(inputs)
        if encoder_states is not None:
            given["encoder_outputs"] = BaseModelOutput(last_hidden_state=encoder_states)
        # Quantised heads keep their weight packed, and a bias added behind the head (BART's) has
        # the whole vocabulary's size: there, all of it is computed and the rest left out.
        plain = type(self._head.base) is nn.Linear
        restricts = plain and not hasattr(self.language_model, "final_logits_bias")
        with self._head.only(needed, tokens if restricts else None):
            logits = self.language_model(**given).logits
        logits = logits if tokens is None or restricts else logits[:, tokens]
        return float32_or_wider(logits)

    def _check_row_alignment(self) -> None:
        """Run two rows of three tokens; every adapted layer must see them as rows of tokens.

        Some models put tokens first inside, or send other things through a projection: there,
        rows would silently use one another's weights.
        """
        seen: dict[str, torch.Size] = {}
        layers = [m for m in self.model.modules() if isinstance(m, AdaptedLinear)]
        hooks = [
            m.register_forward_pre_hook(lambda m, x: seen.__setitem__(m.name, x[0].shape[:-1]))
            for m in layers
        ]
        ids = torch.ones(2, 3, dtype=torch.long, device=self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.kind is BackboneKind.ENCODER_DECODER:
            inputs["decoder_input_ids"] = ids
        with torch.inference_mode():
            self.model(**inputs)
        for hook in hooks:
            hook.remove()
        wrong = [m.name for m in layers if seen.get(m.name) not in (torch.Size((2, 3)), (6,))]
        if wrong:
            raise UnsupportedError(
                f"Layer {wrong[0]!r} of backbone {self.name!r} does not get its input as rows of "
                f"tokens, so rows cannot have weights of their own there. Choose other targets."
            )

    def parts(
        self, adapter: Adapter, group: LayerGroup, generator: torch.Generator, seed: int
    ) -> Parts:
        """Describe an adapter in a group of layers.

        Args:
            adapter: The adapter.
            group: The layers.
            generator: Of random starts.
            seed: Of random constants: what layers of one shape share, those of another may too.
        """
        layers = Layers(group.d_in, group.d_out, len(group.layers), lambda: self._weights(group))
        factors = adapter.factors(group.d_in, group.d_out)
        if not factors:
            raise ConfigError(f"{adapter} belongs to a PEFT model, and this backbone is none.")
        starts = adapter.starts(layers, generator)
        fixed = adapter.constants(layers, starts, torch.Generator().manual_seed(seed))
        return Parts(factors, starts, fixed)

    @property
    def default_adapter(self) -> Adapter:
        """What a fit takes where none is named."""
        return LoRA()

    @property
    def class_labels(self) -> tuple[str, ...]:
        """The labels of the model's own classifier, in the order of its logits; empty: none."""
        return ()

    @property
    def row_aligned(self) -> bool:
        """Whether rows of one pass may use different draws."""
        return True

    def save(self, folder: Path) -> None:
        """Write what a run needs beside the pretrained weights: nothing."""

    def _weights(self, group: LayerGroup) -> Iterator[Tensor]:
        for name in group.layers:
            layer = self.model.get_submodule(name)
            assert isinstance(layer, AdaptedLinear)
            yield layer.weight()

    def _by_layer(
        self,
        factors: Factors,
        adapters: Mapping[str, Adapter],
        levels: Mapping[str, Tensor],
        weights: Mapping[str, float],
    ) -> dict[str, list[Update]]:
        # One unbind a site: its backward is one stack, where a slice a layer would zero-fill
        # the whole site for each layer.
        stacks = {key: self._entries(key, value) for key, value in factors.items()}
        updates: dict[str, list[Update]] = {}
        for effect, group in dict.fromkeys((effect, group) for effect, group, _ in factors):
            names = [factor for e, g, factor in factors if (e, g) == (effect, group)]
            own = adapters[effect].level_factors if effect in levels else frozenset()
            layers = next(g.layers for g in self.groups if g.name == group)
            for i, layer in enumerate(layers):
                stacked = {name: stacks[effect, group, name] for name in names}
                values = {n: stack[i * len(stack) // len(layers)] for n, stack in stacked.items()}
                update = Update(
                    adapters[effect], values, levels.get(effect), own, weights.get(effect, 1.0)
                )
                updates.setdefault(layer, []).append(update)
        return updates

    def _entries(self, key: FactorKey, value: Tensor) -> list[Tensor]:
        first = self._constant_below.get(key, 0)
        return [own.detach() if i < first else own for i, own in enumerate(value.unbind(1))]
