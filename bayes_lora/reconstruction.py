"""The likelihood of a row's own tokens, M2A's reconstruction term (arXiv 2503.06085).

Encoders predict tokens that were hidden from them, by BERT's recipe (arXiv 1810.04805, appendix
A.1); decoders predict each next token.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from bayes_lora.backbone import Backbone, BackboneKind
from bayes_lora.backbone.precision import float32_or_wider
from bayes_lora.errors import ConfigError, UnsupportedError
from bayes_lora.scorers import Row
from bayes_lora.scorers.padding import padded

IDS, MASK, TARGETS = "rebuilt_ids", "rebuilt_mask", "rebuilt_targets"
SHARE = 0.15  # of a row's tokens that an encoder predicts
NOTHING = -100  # the target where nothing is predicted
_HEADS: WeakKeyDictionary[Backbone, PreTrainedModel | None] = WeakKeyDictionary()


def check_reconstructs(backbone: Backbone) -> None:
    """Raise UnsupportedError unless the backbone has what predicts tokens."""
    kind = backbone.kind
    if kind is BackboneKind.ENCODER_DECODER:
        problem = "an encoder-decoder, whose input no head of it predicts"
    elif kind is BackboneKind.DECODER and backbone.language_model is None:
        problem = "a decoder without a pretrained language-modelling head"
    elif kind is BackboneKind.ENCODER and backbone.tokenizer.mask_token is None:
        problem = "an encoder whose tokenizer has no mask token"
    else:
        return
    raise UnsupportedError(
        f"Backbone {backbone.name!r} is {problem}: its rows cannot be reconstructed. Leave the "
        "reconstruction term out, or choose an encoder with a mask token or a language model."
    )


def hidden_tokens(
    backbone: Backbone, rows: Sequence[Row], generator: torch.Generator, groups: int = 1
) -> dict[str, Tensor]:
    """Make what ``log_likelihood`` reads of rows; options are not looked at.

    All rows are in one block in their order, a sequence each, so that they stay aligned with the
    adapters' draws and with each row's own weights.

    Args:
        backbone: What will run on the tensors.
        rows: Rows, group by group.
        generator: Chooses which tokens an encoder does not see; on the CPU.
        groups: Groups of rows that may have weights of their own, R; divides the rows.

    Returns:
        ``rebuilt_ids`` and ``rebuilt_mask``, the inputs; ``rebuilt_targets``, the token that each
        position is to predict, -100 for none; all int64 ``[B, T]``, on the backbone's device.

    Raises:
        UnsupportedError: This backbone predicts no tokens (see ``check_reconstructs``).
        ConfigError: The groups are not of one size.
    """
    check_reconstructs(backbone)
    if len(rows) % groups:
        raise ConfigError(f"{len(rows)} rows do not make {groups} groups of one size.")
    ids = padded([row.ids for row in rows], backbone.tokenizer.pad_token_id or 0)
    mask = padded([[1] * len(row.ids) for row in rows], 0)
    if backbone.kind is BackboneKind.DECODER:
        targets = _next_tokens(ids, mask)
    else:
        ids, targets = _hide(backbone.tokenizer, ids, mask, generator)
    tensors = {IDS: ids, MASK: mask, TARGETS: targets}
    return {key: value.to(backbone.device) for key, value in tensors.items()}


def log_likelihood(backbone: Backbone, tensors: Mapping[str, Tensor]) -> Tensor:
    """Score rows' own tokens under the adapter weights in force.

    Args:
        backbone: Runs the pass; inside ``backbone.adapted``.
        tensors: Of ``hidden_tokens``; others are not looked at.

    Returns:
        Mean log-probability over a row's predicted tokens, in nats, ``[B]``, float32 or wider; 0
        for a row without any, such as an empty text.

    Raises:
        UnsupportedError: The encoder has no pretrained head, nor embeddings as wide as its states.
    """
    inputs = {"input_ids": tensors[IDS], "attention_mask": tensors[MASK]}
    needed = tensors[TARGETS] != NOTHING
    logits = _logits(backbone, inputs, needed)
    scores = -F.cross_entropy(logits, tensors[TARGETS][needed], reduction="none")
    by_position = scores.new_zeros(needed.shape).masked_scatter(needed, scores)
    return by_position.sum(1) / needed.sum(1).clamp(min=1)


def _next_tokens(ids: Tensor, mask: Tensor) -> Tensor:
    targets = ids.masked_fill(mask == 0, NOTHING).roll(-1, 1)
    targets[:, -1] = NOTHING
    return targets


def _hide(
    tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Corrupt the chosen tokens: 80 % become the mask, 10 % a random token, 10 % stay."""
    special = torch.tensor(tokenizer.all_special_ids, dtype=torch.int64)
    chosen = _choose(mask.bool() & ~torch.isin(ids, special), generator)
    # Left to choose by itself, the collator tosses a coin for each token: some rows get none.
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)
    collator.generator = generator  # its own seed would begin anew with every collator
    return collator.torch_mask_tokens(ids.clone(), special_tokens_mask=~chosen)


def _choose(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Choose 15 % of each row's allowed positions, rounded, and one at least: bool ``[B, T]``.

    So counts BERT's own code (google-research/bert, ``create_pretraining_data.py``).
    """
    wanted = (SHARE * allowed.sum(1, keepdim=True)).round().clamp(min=1)
    order = torch.rand(allowed.shape, generator=generator).masked_fill(~allowed, 2.0)
    return allowed & (order.argsort(1).argsort(1) < wanted)


def _logits(backbone: Backbone, inputs: Mapping[str, Tensor], needed: Tensor) -> Tensor:
    """Predict tokens where they are needed and nowhere else, ``[P, vocabulary]``."""
    if backbone.language_model is not None:
        return backbone.token_logits(inputs, needed)
    states = backbone.states(inputs)[needed]
    head = _masked_head(backbone)
    if head is None:
        logits = _tied_logits(backbone, states)
    else:
        logits = head(inputs_embeds=states.unsqueeze(0)).logits[0]
    return float32_or_wider(logits)


def _tied_logits(backbone: Backbone, states: Tensor) -> Tensor:
    """Compare states with the input embeddings, for an encoder that lost its head or had none.

    Nothing was trained to make this fit: on reviews, MiniLM starts at 10.6 to 10.8 nats a token,
    where equal probabilities give 10.3. It is for the adapters to learn. States are scaled to root
    mean square 1, as the class head's are: on book reviews, 200 steps of LoRA then reach 5.9 nats
    on unseen ones (word frequencies: 6.7). Left as they come they reach 6.9, and 9.9 with the
    embeddings' mean norm, under which the logits are bounded.
    """
    embeddings = backbone.model.get_input_embeddings().weight
    if embeddings.shape[1] != states.shape[1]:
        raise UnsupportedError(
            f"Backbone {backbone.name!r} has no pretrained masked-language-modelling head, and its "
            f"embeddings ({embeddings.shape[1]} wide) cannot stand in for one, as its states are "
            f"{states.shape[1]} wide. Leave the reconstruction term out."
        )
    return F.linear(F.normalize(states, dim=-1) * states.shape[1] ** 0.5, embeddings)


class _GivenStates(nn.Module):
    """Stands in the place of a model's body, so that the model applies its head to given states."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def _masked_head(backbone: Backbone) -> PreTrainedModel | None:
    """Give the checkpoint's masked-language-modelling head, loaded once, or None."""
    if backbone not in _HEADS:
        source = backbone.model.name_or_path  # empty: not from a checkpoint
        _HEADS[backbone] = _load_head(source, backbone.dtype) if source else None
    head = _HEADS[backbone]
    return None if head is None else head.to(backbone.device)  # type: ignore[arg-type]


def _load_head(source: str, dtype: torch.dtype) -> PreTrainedModel | None:
    # A head that is missing is first made up at random: no business of the caller's random state.
    with _quiet(), torch.random.fork_rng(devices=[]):
        model, info = AutoModelForMaskedLM.from_pretrained(
            source,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    body = model.base_model_prefix
    if not all(key.startswith(f"{body}.") for key in info["missing_keys"]):
        return None
    setattr(model, body, _GivenStates())
    return model.requires_grad_(False).eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting a head that is missing as if it were an error."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
