"""Texts to token ids: what is cut where a text is too long, and which tokens an option adds."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from bayes_lora.errors import ConfigError, InputDataError, UnsupportedError

TokenIds = tuple[int, ...]

# What stands between the parts of a text: a pair in CrossFit, a passage in UnifiedQA.
SEPARATORS = (" [SEP] ", " \\n ")


@dataclass(frozen=True)
class Tokenized:
    """Token ids of one text, and whether some of the text was cut off."""

    ids: TokenIds
    cut: bool = False


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    tails: Sequence[str],
    lengths: Sequence[int],
) -> list[Tokenized]:
    """Tokenize each text with its tail, with the model's special tokens.

    Args:
        tokenizer: The model's.
        texts: Texts; where one is too long, the ends of its longest parts are cut, so that the
            shorter part of a pair is kept. Parts are separated by ``SEPARATORS``.
        tails: What follows each text and is never cut.
        lengths: Most tokens of each.

    Raises:
        ConfigError: A tail leaves no room for its text.
    """
    full = [text + tail for text, tail in zip(texts, tails, strict=True)]
    ids = tokenizer(full, truncation=False, verbose=False)["input_ids"]
    return [
        Tokenized(tuple(ids[i]))
        if len(ids[i]) <= lengths[i]
        else Tokenized(_cut(tokenizer, texts[i], tails[i], lengths[i]), cut=True)
        for i in range(len(texts))
    ]


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, tail: str, max_length: int) -> TokenIds:
    if not tokenizer.is_fast:
        raise UnsupportedError("A text is too long and this tokenizer cannot say where to cut it.")
    encoded = tokenizer(text + tail, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    # The parts alone, or, where separators fill the text, all of it.
    for spans in (_part_spans(text), [(0, len(text))]):
        parts: list[list[int]] = [
            # Special tokens stand at no place in the text: their offsets are empty.
            [i for i, (start, end) in enumerate(offsets) if first <= start < end <= last]
            for first, last in spans
        ]
        lengths = _shortened([len(part) for part in parts], len(ids) - max_length)
        if lengths is not None:
            dropped = {i for part, kept in zip(parts, lengths, strict=True) for i in part[kept:]}
            return tuple(token for i, token in enumerate(ids) if i not in dropped)
    raise ConfigError(
        f"max_length {max_length} leaves no room for the text: what must follow it is "
        f"{len(tokenizer(tail)['input_ids'])} tokens long. Give a larger one."
    )


def _part_spans(text: str) -> list[tuple[int, int]]:
    """Where each part of a text begins and ends, in characters."""
    spans = []
    start = 0
    while start <= len(text):
        found = [(at, s) for s in SEPARATORS if (at := text.find(s, start)) >= 0]
        end, separator = min(found, default=(len(text), " "))
        spans.append((start, end))
        start = end + len(separator)
    return spans


def _shortened(lengths: list[int], excess: int) -> list[int] | None:
    """Take ``excess`` tokens from the longest parts; None where nothing would be left."""
    if sum(lengths) <= excess:
        return None
    # The level down to which every longer part is cut: a few steps of a search would do, but
    # parts are few and short.
    level = max(lengths)
    while sum(max(0, length - level) for length in lengths) < excess:
        level -= 1
    kept = [min(length, level) for length in lengths]
    spare = sum(lengths) - excess - sum(kept)
    for i, length in enumerate(lengths):
        if spare and length > level:
            kept[i] += 1
            spare -= 1
    return kept


def target_tokens(tokenizer: PreTrainedTokenizerBase, options: Sequence[str]) -> list[TokenIds]:
    """Give the tokens of each option as the target of an encoder-decoder, as it was trained.

    Raises:
        InputDataError: An option has no token but special ones, or an unknown one.
    """
    targets = [tuple(ids) for ids in tokenizer(text_target=list(options))["input_ids"]]
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    for option, ids in zip(options, targets, strict=True):
        _check_known(tokenizer, option, [token for token in ids if token not in special])
    return targets


def option_tokens(
    tokenizer: PreTrainedTokenizerBase, options: Sequence[str], after: str, glue: str
) -> list[TokenIds]:
    """Give the tokens each option adds when it follows a text.

    Args:
        tokenizer: The model's.
        options: Options.
        after: The end of every text.
        glue: What stands between the text and the option, as part of the option's tokens.

    Raises:
        InputDataError: An option adds no token, an unknown one, or changes those before it.
    """
    before = tokenizer(after, add_special_tokens=False)["input_ids"]
    texts = [after + glue + option for option in options]
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    added = []
    for option, ids in zip(options, whole, strict=True):
        if ids[: len(before)] != before:
            raise InputDataError(f"option {option!r} changes the tokens of the text before it")
        added.append(tuple(ids[len(before) :]))
        _check_known(tokenizer, option, added[-1])
    return added


def _check_known(tokenizer: PreTrainedTokenizerBase, option: str, ids: Sequence[int]) -> None:
    if not ids:
        raise InputDataError(f"option {option!r} has no tokens in this model's vocabulary")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise InputDataError(f"option {option!r} has a token this model does not know")
