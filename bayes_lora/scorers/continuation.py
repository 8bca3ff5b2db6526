"""Log-probabilities of all options' tokens, each prompt run once where the model allows it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bayes_lora.backbone import Backbone
from bayes_lora.backbone.head import gather_rows
from bayes_lora.scorers.base import Batch, Row
from bayes_lora.scorers.packing import attention_window, blind_mask, keeps_parts_apart
from bayes_lora.scorers.padding import padded, padded_twice


def fits_in_one_sequence(backbone: Backbone, row: Row) -> bool:
    """Say whether a row's options can follow its prompt in one sequence, without a loss."""
    if max(map(len, row.options)) == 1:  # nothing but the prompt is read
        return True
    window = attention_window(backbone.model.config)
    return keeps_parts_apart(backbone) and (window is None or packed_length(row) <= window)


def packed_length(row: Row) -> int:
    """Count the tokens of a prompt and of what is read of its options."""
    return len(row.ids) + sum(len(option) - 1 for option in row.options)


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
    return {
        "input_ids": padded(ids, backbone.tokenizer.pad_token_id or 0),
        "position_ids": padded(positions, 0),
        "part": padded(parts),
        "predicts": padded_twice(predicts),
    }


def separate(backbone: Backbone, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Put every option behind a prompt of its own: ``input_ids`` and ``part``, ``[B, K, T]``."""
    ids = [[(*row.ids, *option[:-1]) for option in row.options] for row in rows]
    starts = [[len(row.ids) - 1] * len(row.options) for row in rows]
    return {
        "input_ids": padded_twice(ids, backbone.tokenizer.pad_token_id or 0),
        "part": padded_twice([[[0] * len(option) for option in own] for own in ids]),
        "starts": padded(starts, 0),
    }


def run_decoder(backbone: Backbone, batch: Batch) -> Tensor:
    """Return the log-probability (up to a row's constant) of each option token, ``[B, K, L]``."""
    part, options = batch["part"], batch["options"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": (part >= 0).long()}
    if "starts" in batch:
        inputs = {name: value.flatten(0, 1) for name, value in inputs.items()}
        # A row needs one token to look at, also where it stands for no option.
        inputs["attention_mask"][:, 0] = 1
        steps = torch.arange(options.shape[2], device=options.device)
        positions = batch["starts"].unsqueeze(-1) + steps
        rows = _rows_of_copies(options, part.shape[1])
    else:
        if options.shape[-1] > 1:
            inputs["attention_mask"] = blind_mask(part, backbone.dtype)
            inputs["position_ids"] = batch["position_ids"]
        positions = batch["predicts"]
        rows = torch.arange(len(part), device=part.device)[:, None, None].expand_as(positions)
    return _token_scores(backbone, inputs, rows, positions, options)


def run_encoder_decoder(backbone: Backbone, batch: Batch) -> Tensor:
    """Return the log-probability (up to a row's constant) of each option token, ``[B, K, L]``."""
    options, reads = batch["options"], batch["decoder_input_ids"]
    encoded = {key: batch[key] for key in ("input_ids", "attention_mask")}
    states = backbone.encoder_states(encoded)
    if options.shape[-1] == 1:  # every option is predicted by the start token alone
        reads = reads[:, :1]
    copies = reads.shape[1]
    inputs = {
        "attention_mask": batch["attention_mask"].repeat_interleave(copies, 0),
        "decoder_input_ids": reads.flatten(0, 1),
    }
    positions = torch.arange(options.shape[-1], device=options.device).expand_as(options)
    rows = _rows_of_copies(options, copies)
    states = states.repeat_interleave(copies, 0)
    return _token_scores(backbone, inputs, rows, positions, options, states)


def _rows_of_copies(options: Tensor, copies: int) -> Tensor:
    """Say in which of ``B x copies`` sequences each option token is predicted, ``[B, K, L]``."""
    num_rows, most, longest = options.shape
    first = torch.arange(num_rows, device=options.device)[:, None, None] * copies
    own = first + torch.arange(most, device=options.device)[None, :, None]
    # What precedes an option's first token is the same for all: the first copy serves.
    return torch.cat([first.expand(-1, most, 1), own.expand(-1, -1, longest - 1)], dim=-1)


def _token_scores(
    backbone: Backbone,
    inputs: Batch,
    rows: Tensor,
    positions: Tensor,
    options: Tensor,
    encoder_states: Tensor | None = None,
) -> Tensor:
    """Look up each option token's score in the row and at the position that predict it."""
    read = inputs["input_ids" if encoder_states is None else "decoder_input_ids"]
    needed = torch.zeros_like(read, dtype=torch.bool)
    needed[rows[options >= 0], positions[options >= 0]] = True
    tokens, which = None, options.clamp(min=0)
    if options.shape[-1] == 1:
        tokens, which = which.unique(return_inverse=True)
    logits = backbone.token_logits(inputs, needed, tokens=tokens, encoder_states=encoder_states)
    place = gather_rows(needed, rows, positions.clamp(min=0)).clamp(min=0)
    scores = logits[place, which]
    return scores if tokens is not None else scores - logits.logsumexp(-1)[place]
