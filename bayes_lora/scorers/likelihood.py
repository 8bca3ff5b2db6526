"""Log-probability of each option's tokens after the input, under a language model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import torch
from torch import Tensor

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, BackboneKind, TokenIds
from bayes_lora.data import Example
from bayes_lora.errors import InputDataError
from bayes_lora.scorers.base import Batch, Row, Scorer, log_scale, scale_of_rows
from bayes_lora.scorers.continuation import (
    fits_in_one_sequence,
    packed,
    packed_length,
    run_decoder,
    run_encoder_decoder,
    separate,
)
from bayes_lora.scorers.padding import padded_twice

ANSWER = "\nAnswer:"  # where a decoder's prompt ends
LOGITS_PER_TOKEN = 4096  # about as many floats as a token's states take in a small model


@dataclass(frozen=True)
class Likelihood(Scorer):
    """Mean over an option's tokens of their log-probability, given the input and those before.

    The mean, not the sum, so that long options are not at a disadvantage (length-normalised). The
    head runs only at positions that predict an option's token, the first of them shared by all
    options of a row; where every option is one token, only over those tokens, because the
    vocabulary's normaliser is then the same for all and cancels.

    A decoder reads ``input``, a new line and ``Answer:``, once for all options: these follow in
    one sequence, each blind to the others. Where a model cannot do that (it takes no positions,
    carries a state along, or sees less far than the sequence is long), each option gets a
    sequence of its own. An encoder-decoder reads the input with its options listed as in
    UnifiedQA, encoded once for all options; these are its targets, special tokens included.
    """

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """``log_scale [1]``: how sure likelihood makes; starts at zero."""
        return log_scale()

    def problem(self, backbone: Backbone, options: tuple[str, ...]) -> str | None:
        """Say which option has no (known) tokens, is too long, or is how another one begins."""
        try:
            _, tokens = self._options(backbone, options)
        except InputDataError as error:
            return str(error)
        longest = max(map(len, tokens))
        if longest > backbone.max_length // 2:
            return f"an option is {longest} tokens long, over half of max_length"
        for i, short in enumerate(tokens):
            for j, other in enumerate(tokens):
                if i != j and other[: len(short)] == short:
                    return (
                        f"option {options[i]!r} is how {options[j]!r} begins, so that its "
                        "likelihood holds the other's; the scorer likelihood-letter can tell "
                        "them apart"
                    )
        return None

    def rows(self, backbone: Backbone, examples: Sequence[Example]) -> list[Row]:
        """Tokenize prompts and options."""
        sets = {example.options for example in examples}
        options = {own: self._options(backbone, own) for own in sets}
        prompts = [self._prompt(backbone, example) for example in examples]
        tails = [
            tail + options[e.options][0] for (_, tail), e in zip(prompts, examples, strict=True)
        ]
        # What is read of an option needs positions too.
        reserves = [max(map(len, options[example.options][1])) - 1 for example in examples]
        encoded = backbone.encode([text for text, _ in prompts], tails, reserves)
        return [
            Row(_open_ended(backbone, tokens.ids), options[example.options][1], tokens.cut)
            for tokens, example in zip(encoded, examples, strict=True)
        ]

    def cost(self, backbone: Backbone, row: Row) -> int:
        """Count the tokens that are read, and logits over the vocabulary as some more."""
        tokens = packed_length(row)
        if backbone.kind is BackboneKind.ENCODER_DECODER or not fits_in_one_sequence(backbone, row):
            tokens = sum(len(row.ids) + len(option) - 1 for option in row.options)
        scored = packed_length(row) - len(row.ids) + 1
        return tokens + scored * backbone.model.config.vocab_size // LOGITS_PER_TOKEN

    def _options(
        self, backbone: Backbone, options: tuple[str, ...]
    ) -> tuple[str, tuple[TokenIds, ...]]:
        """Return how a prompt must end before these options, and the tokens they add to it."""
        if backbone.kind is BackboneKind.ENCODER_DECODER:
            return "", tuple(backbone.encode_targets(options))
        return _after_answer(backbone, options)

    def _prompt(self, backbone: Backbone, example: Example) -> tuple[str, str]:
        """Return what may be cut, and what follows it (before ``Answer:``) and may not."""
        if backbone.kind is BackboneKind.DECODER:
            return example.input, ""
        return with_options_listed(example), ""

    def collate(
        self,
        backbone: Backbone,
        rows: Sequence[Row],
        groups: int = 1,
        embedded: Mapping[TokenIds, int] | None = None,
    ) -> Batch:
        """Pad prompts and options; a decoder's options follow the prompt in its sequence."""
        options = padded_twice([row.options for row in rows])
        if backbone.kind is BackboneKind.DECODER:
            together = all(fits_in_one_sequence(backbone, row) for row in rows)
            batch = (packed if together else separate)(backbone, rows)
        else:
            start = backbone.model.config.decoder_start_token_id
            reads = [[[start, *option[:-1]] for option in row.options] for row in rows]
            batch = backbone.collate([row.ids for row in rows])
            batch["decoder_input_ids"] = padded_twice(reads, start)
        batch["options"] = options
        return {key: value.to(backbone.device) for key, value in batch.items()}

    def features(
        self, backbone: Backbone, batch: Batch, shared: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Score all tokens of all options, and average within each option: ``[B, K]``."""
        run = run_decoder if backbone.kind is BackboneKind.DECODER else run_encoder_decoder
        options = batch["options"]  # [B, K, L], -1 for none
        scores = run(backbone, batch).masked_fill(options < 0, 0.0)
        return {"means": scores.sum(-1) / (options >= 0).sum(-1).clamp(min=1)}

    def score(
        self, features: Mapping[str, Tensor], batch: Batch, head: Mapping[str, Tensor]
    ) -> Tensor:
        """Scale the averages."""
        means = features["means"]
        logits = scale_of_rows(head, len(means)) * means
        return logits.masked_fill((batch["options"] < 0).all(-1), -torch.inf)


@dataclass(frozen=True)
class LetterLikelihood(Likelihood):
    """Log-probability of an option's letter, with the options listed in the prompt.

    One token an option, whatever the options' length: only the letters' rows of the head are
    computed. For models that have learnt to answer so.
    """

    def problem(self, backbone: Backbone, options: tuple[str, ...]) -> str | None:
        """Say so where there are too few letters, or they are not one token each."""
        if len(options) > len(ascii_uppercase):
            return f"{len(options)} options are more than there are letters"
        try:
            _, letters = self._options(backbone, options)
        except InputDataError as error:
            return str(error)
        if max(map(len, letters)) > 1 or len(set(letters)) < len(letters):
            return "this model's tokenizer does not make each letter a token of its own"
        length = len(backbone.tokenizer(listed(options))["input_ids"])
        if length > backbone.max_length // 2:
            return f"its options together are {length} tokens long, over half of max_length"
        return None

    def _options(
        self, backbone: Backbone, options: tuple[str, ...]
    ) -> tuple[str, tuple[TokenIds, ...]]:
        letters = tuple(ascii_uppercase[: len(options)])
        if backbone.kind is BackboneKind.ENCODER_DECODER:
            return "", tuple(ids[:-1] for ids in backbone.encode_targets(letters))
        return _after_answer(backbone, letters, longest=1)

    def _prompt(self, backbone: Backbone, example: Example) -> tuple[str, str]:
        if backbone.kind is BackboneKind.DECODER:
            return example.input, f"\n{listed(example.options)}"
        return with_options_listed(example), ""


def _open_ended(backbone: Backbone, ids: TokenIds) -> TokenIds:
    """Drop the special token that some tokenizers end a text with: the option is to follow."""
    closed = ids[-1] in backbone.tokenizer.all_special_ids
    return ids[:-1] if closed and backbone.kind is BackboneKind.DECODER else ids


def _after_answer(
    backbone: Backbone, options: tuple[str, ...], longest: int | None = None
) -> tuple[str, tuple[TokenIds, ...]]:
    """Find an end of the prompt that keeps its tokens whichever of these options follows.

    Most tokenizers put the space before an option into its first token; some put it into the
    colon's, and some merge across it anyhow, but not across a line.
    """
    errors = []
    for end, glue in ((ANSWER, " "), (f"{ANSWER} ", ""), (f"{ANSWER}\n", "")):
        try:
            ids = tuple(backbone.encode_options(options, end, glue))
        except InputDataError as error:
            errors.append(error)
        else:
            if longest is None or max(map(len, ids)) <= longest:
                return end, ids
            errors.append(InputDataError(f"{options[0]!r} and the others are not one token each"))
    raise errors[0]


def listed(options: Sequence[str]) -> str:
    """Write options as ``(A) one (B) another``; none where letters do not suffice."""
    if len(options) > len(ascii_uppercase):
        return ""
    lettered = zip(ascii_uppercase, options, strict=False)
    return " ".join(f"({letter}) {option}" for letter, option in lettered)


def with_options_listed(example: Example) -> str:
    """Write an input in UnifiedQA's encoding: question, options, passage."""
    question, *passage = example.input.split(" \\n ", 1)
    return " \\n ".join(part for part in (question, listed(example.options), *passage) if part)
