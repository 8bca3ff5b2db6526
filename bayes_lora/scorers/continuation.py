"""Log-probabilities of all options' tokens in one pass, each prompt run once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_lora.backbone import Backbone
from bayes_lora.backbone.head import gather_rows
from bayes_lora.scorers.base import Batch, Row
from bayes_lora.scorers.padding import padded, padded_twice


def packed(backbone: Backbone, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Put each row's options behind its prompt: all but an option's last token is read.

    Returns:
        ``input_ids``, ``position_ids`` and ``part`` (0: prompt, k + 1: option k, -1: padding),
        ``[B, T]``; ``predicts [B, K, L]``, the position whose logits predict each token.
    """
    ids, positions, parts, predicts = [], [], [], []
    for row in rows:
        prompt = len(row.ids)
        own_ids, own_positions = list(row.ids), list(range(prompt))
        own_parts, own_predicts = [0] * prompt, []
        for k, option in enumerate(row.options):
            read = option[:-1]
            first = len(own_ids)
            own_predicts.append([prompt - 1, *range(first, first + len(read))])
            own_ids += read
            own_positions += range(prompt, prompt + len(read))
            own_parts += [k + 1] * len(read)
        ids.append(own_ids)
        positions.append(own_positions)
        parts.append(own_parts)
        predicts.append(own_predicts)
    pad = backbone.tokenizer.pad_token_id or 0
    return {
        "input_ids": padded(ids, pad),
        "position_ids": padded(positions, 0),
        "part": padded(parts),
        "predicts": padded_twice(predicts),
    }


def run_decoder(backbone: Backbone, batch: Batch) -> Tensor:
    """Return the log-probability (up to a row's constant) of each option token, ``[B, K, L]``."""
    predicts, part = batch["predicts"], batch["part"]
    inputs = {"input_ids": batch["input_ids"]}
    if predicts.shape[-1] == 1:  # nothing but prompts
        inputs["attention_mask"] = (part >= 0).long()
    else:
        inputs["attention_mask"] = _blind_to_each_other(part, backbone.dtype)
        inputs["position_ids"] = batch["position_ids"]
    needed = torch.zeros_like(part, dtype=torch.bool)
    rows = torch.arange(len(part), device=part.device)[:, None, None].expand_as(predicts)
    needed[rows[predicts >= 0], predicts[predicts >= 0]] = True
    return _token_scores(backbone, inputs, needed, rows, predicts.clamp(min=0), batch["options"])


def _blind_to_each_other(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Make the additive mask ``[B, 1, T, T]``: a token sees its prompt and its own option."""
    length = part.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=part.device).tril()
    same = part[:, :, None] == part[:, None, :]  # padding sees padding: no empty softmax
    allowed = causal & (same | (part[:, None, :] == 0))
    mask = torch.zeros(allowed.shape, dtype=dtype, device=part.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)


def run_encoder_decoder(backbone: Backbone, batch: Batch) -> Tensor:
    """Return the log-probability (up to a row's constant) of each option token, ``[B, K, L]``."""
    options, reads = batch["options"], batch["decoder_input_ids"]
    encoded = {key: batch[key] for key in ("input_ids", "attention_mask")}
    states = backbone.encoder_states(encoded)
    if options.shape[-1] == 1:  # every option is predicted by the start token alone
        reads = reads[:, :1]
    copies = reads.shape[1]
    num_rows, most, longest = options.shape
    first = torch.arange(num_rows, device=options.device)[:, None, None] * copies
    own = first + torch.arange(most, device=options.device)[None, :, None]
    # The start token's state is the same before every option: the first copy's serves all.
    rows = torch.cat([first.expand(-1, most, 1), own.expand(-1, -1, longest - 1)], dim=-1)
    positions = torch.arange(longest, device=options.device).expand_as(options)
    needed = torch.zeros(num_rows * copies, reads.shape[2], dtype=torch.bool, device=options.device)
    needed[rows[options >= 0], positions[options >= 0]] = True
    inputs = {
        "attention_mask": batch["attention_mask"].repeat_interleave(copies, 0),
        "decoder_input_ids": reads.flatten(0, 1),
    }
    states = states.repeat_interleave(copies, 0)
    return _token_scores(backbone, inputs, needed, rows, positions, options, states)


def _token_scores(
    backbone: Backbone,
    inputs: Batch,
    needed: Tensor,
    rows: Tensor,
    positions: Tensor,
    options: Tensor,
    encoder_states: Tensor | None = None,
) -> Tensor:
    """Look up each option token's score where row and position predict it."""
    tokens, which = None, options.clamp(min=0)
    if options.shape[-1] == 1:
        tokens, which = which.unique(return_inverse=True)
    logits = backbone.token_logits(inputs, needed, tokens=tokens, encoder_states=encoder_states)
    if tokens is None:
        logits = logits.log_softmax(-1)
    place = gather_rows(needed, rows, positions).clamp(min=0)
    return logits[place, which]
