"""The likelihood of rows' own tokens against plain passes over one row at a time."""

from pathlib import Path

import pytest
import torch
from tiny_backbones import WordTokenizer, tiny_encoder
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from bayes_lora import LoRA, load_backbone
from bayes_lora.backbone import Backbone
from bayes_lora.backbone.loading import _minilm_folder
from bayes_lora.errors import ConfigError, UnsupportedError
from bayes_lora.reconstruction import hidden_tokens, log_likelihood
from bayes_lora.scorers import Row
from bayes_lora.scorers.base import repeated

ADAPTERS = {"population": LoRA(rank=2)}
SPECIAL, MASKED, VOCABULARY = [0, 1, 2, 3, 4], 4, 99
LENGTHS = [9, 4, 20, 30, 3, 7]
TEXTS = [
    "Once upon a time there was a little girl who had a big red ball",
    "One day",
    "The cat sat on the mat and slept until the sun was very low",
    "She was sad, but then a dog came and they all went home to play together in the garden",
]
SIZES = {
    "vocab_size": 30522,  # MiniLM's tokenizer's
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
HEADS = {
    "bert": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**SIZES)),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=30522, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    ),
}


class MaskingTokenizer(WordTokenizer):
    """The tiny tokenizer with special tokens: [PAD], a start, an end, an unknown and [MASK]."""

    pad_token_id = 0
    mask_token = "[MASK]"
    all_special_ids = SPECIAL
    is_fast = True

    def __len__(self) -> int:
        return VOCABULARY

    def convert_tokens_to_ids(self, token: str) -> int:
        assert token == self.mask_token
        return MASKED


def encoder() -> Backbone:
    """The tiny encoder, whose states are to predict its input embeddings; float64."""
    backbone = tiny_encoder()
    backbone.tokenizer = MaskingTokenizer()
    return backbone


def decoder() -> Backbone:
    """A tiny Llama with its head, float64."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, use_cache=False, **sizes
    )
    model = LlamaForCausalLM(config).double()
    body, tokenizer = model.base_model, MaskingTokenizer()
    return Backbone(body, tokenizer, name="tiny", fingerprint="", language_model=model)


@pytest.fixture(params=[encoder, decoder])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.param()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_rows(lengths: list[int] = LENGTHS) -> list[Row]:
    """A start token, words and an end."""
    draw = generator(5)
    words = [torch.randint(5, VOCABULARY, (n - 2,), generator=draw).tolist() for n in lengths]
    return [Row((1, *ids, 2)) for ids in words]


def make_factors(backbone: Backbone, number: int) -> dict[tuple[str, str, str], Tensor]:
    torch.manual_seed(2)
    return {
        ("population", group.name, name): (
            0.3 * torch.randn(number, len(group.layers), *factor.shape, dtype=backbone.dtype)
        ).requires_grad_()
        for group in backbone.groups
        for name, factor in ADAPTERS["population"].factors(group.d_in, group.d_out).items()
    }


def rows_of(backbone: Backbone, texts: list[str]) -> list[Row]:
    return [Row(tokens.ids) for tokens in backbone.encode(texts)]


def plain_row(backbone: Backbone, tensors: dict[str, Tensor], row: int) -> Tensor:
    """One row alone, unpadded, and the whole vocabulary at every position."""
    length = int(tensors["rebuilt_mask"][row].sum())
    ids, targets = (tensors[f"rebuilt_{name}"][row, :length] for name in ("ids", "targets"))
    inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    if backbone.language_model is None:
        states = backbone.states(inputs)[0]
        scaled = states / states.pow(2).mean(-1, keepdim=True).sqrt()
        logits = scaled @ backbone.model.get_input_embeddings().weight.T
    else:
        logits = backbone.language_model(**inputs).logits[0]
    predicted = logits.double().log_softmax(-1)
    scores = [predicted[t, target] for t, target in enumerate(targets) if target != -100]
    return torch.stack(scores).mean()


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_equals_a_plain_loop_over_rows_with_weights_of_their_own(
    backbone: Backbone, groups: int
) -> None:
    factors = make_factors(backbone, groups)
    tensors = hidden_tokens(backbone, make_rows(), generator(), groups)
    with torch.no_grad():
        with backbone.adapted(factors, ADAPTERS):
            together = log_likelihood(backbone, tensors)
        for row in range(len(LENGTHS)):
            group = row * groups // len(LENGTHS)
            own = {key: value[group : group + 1] for key, value in factors.items()}
            with backbone.adapted(own, ADAPTERS):
                expected = plain_row(backbone, tensors, row)
            torch.testing.assert_close(together[row], expected, atol=1e-10, rtol=0)


def test_equals_a_plain_loop_over_the_real_minilm(minilm: Backbone) -> None:
    tensors = hidden_tokens(minilm, rows_of(minilm, TEXTS), generator())
    with torch.no_grad():
        together = log_likelihood(minilm, tensors)
        assert together.dtype == torch.float32
        for row in range(len(TEXTS)):
            expected = plain_row(minilm, tensors, row).float()
            torch.testing.assert_close(together[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["tinystories-656K", "stories260K"])
def test_equals_the_loss_of_the_real_language_models(name: str, data_folder: Path) -> None:
    path = str(data_folder / "causal_lm" / name)
    model, backbone = AutoModelForCausalLM.from_pretrained(path), load_backbone(path)
    rows = rows_of(backbone, TEXTS)
    with torch.no_grad():
        together = log_likelihood(backbone, hidden_tokens(backbone, rows, generator()))
        for row, value in zip(rows, together, strict=True):
            ids = torch.tensor([row.ids])
            torch.testing.assert_close(value, -model(ids, labels=ids).loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", HEADS)
def test_a_pretrained_masked_head_is_found_and_equals_its_models_loss(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    made = HEADS[name]()
    for value in made.parameters():  # biases start at zero and would not be missed
        value.data.normal_(std=0.2)
    made.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(str(_minilm_folder())).save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    backbone = load_backbone(str(tmp_path), max_length=40)
    tensors = hidden_tokens(backbone, rows_of(backbone, TEXTS), generator())
    capfd.readouterr()
    with torch.no_grad():
        together = log_likelihood(backbone, tensors)
        assert not capfd.readouterr().err
        expected = masked_losses(model, tensors)
    torch.testing.assert_close(together, -expected, atol=1e-5, rtol=1e-5)


def masked_losses(model: PreTrainedModel, tensors: dict[str, Tensor]) -> Tensor:
    losses = []
    for ids, mask, targets in zip(*tensors.values(), strict=True):
        kept = mask.bool()
        losses.append(model(ids[kept][None], labels=targets[kept][None]).loss)
    return torch.stack(losses)


def test_looking_for_a_head_is_silent_and_takes_no_random_numbers(
    tiny_folders: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    tensors = hidden_tokens(backbone, rows_of(backbone, TEXTS), generator())
    state = torch.get_rng_state()
    capfd.readouterr()
    values = log_likelihood(backbone, tensors)
    assert not capfd.readouterr().err
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(values[0], plain_row(backbone, tensors, 0).float())


def test_bfloat16_is_scored_in_float32(tiny_folders: Path) -> None:
    for name in ("tiny-encoder", "tiny-decoder"):
        backbone = load_backbone(str(tiny_folders / name), dtype=torch.bfloat16)
        tensors = hidden_tokens(backbone, rows_of(backbone, TEXTS), generator())
        values = log_likelihood(backbone, tensors)
        assert values.dtype == torch.float32
        assert values.isfinite().all()


def test_the_recipe_is_berts() -> None:
    """15 % of each row, of which 80 % masked, 10 % random and 10 % kept; never special tokens."""
    backbone = encoder()
    rows = make_rows([102] * 400)
    original = torch.tensor([row.ids for row in rows])
    tensors = hidden_tokens(backbone, rows, generator())
    ids, targets = tensors["rebuilt_ids"], tensors["rebuilt_targets"]
    chosen = targets != -100
    assert (chosen.sum(1) == 15).all()
    assert torch.equal(targets[chosen], original[chosen])
    assert torch.equal(ids[~chosen], original[~chosen])
    masked, kept = ids[chosen] == MASKED, ids[chosen] == original[chosen]
    assert masked.float().mean() == pytest.approx(0.8, abs=0.02)  # 6,000 tokens: 4 deviations
    assert kept.float().mean() == pytest.approx(0.1 + 0.1 / VOCABULARY, abs=0.016)
    assert len(ids[chosen][~masked & ~kept].unique()) > 0.9 * VOCABULARY
    by_place = chosen[:, 1:-1].float().mean(0)  # 400 coins: 0.018 each
    assert (by_place - 0.15).abs().max() < 5 * 0.018


def test_every_row_predicts_a_token_and_no_special_one() -> None:
    backbone = encoder()
    rows = [*make_rows([*range(3, 30)] * 20), Row((1, 3, 4, 50, 3, 2))]
    for seed in range(3):
        tensors = hidden_tokens(backbone, rows, generator(seed))
        targets = tensors["rebuilt_targets"]
        counts = (targets != -100).sum(1)
        assert counts.min() == 1
        assert not torch.isin(targets, torch.tensor(SPECIAL)).any()
        tokens = sum(len(row.ids) - 2 for row in rows)
        assert counts.sum() / tokens == pytest.approx(0.15, abs=0.01)


def test_rows_with_nothing_to_predict_count_nothing(backbone: Backbone) -> None:
    nothing = Row((1, 2)) if backbone.language_model is None else Row((1,))
    for rows in ([nothing], [nothing, *make_rows()]):
        factors = make_factors(backbone, 1)
        with backbone.adapted(factors, ADAPTERS):
            values = log_likelihood(backbone, hidden_tokens(backbone, rows, generator()))
        assert values[0] == 0
        gradients = torch.autograd.grad(values.sum(), list(factors.values()))
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_seeds_reproduce_and_go_on() -> None:
    backbone, rows = encoder(), make_rows()
    state = torch.get_rng_state()
    one, other = generator(7), generator(7)
    first, again = (hidden_tokens(backbone, rows, own) for own in (one, other))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), state), "drawn from elsewhere"
    for second in (hidden_tokens(backbone, rows, one), hidden_tokens(backbone, rows, generator(8))):
        assert not torch.equal(first["rebuilt_targets"], second["rebuilt_targets"])


def test_a_rows_weights_change_its_own_value_alone(backbone: Backbone) -> None:
    factors, changed = make_factors(backbone, len(LENGTHS)), 3
    tensors = hidden_tokens(backbone, make_rows(), generator(), groups=len(LENGTHS))
    other = {key: value.detach().clone() for key, value in factors.items()}
    for value in other.values():
        value[changed] += 0.1
    with backbone.adapted(factors, ADAPTERS):
        before = log_likelihood(backbone, tensors)
    with backbone.adapted(other, ADAPTERS):
        after = log_likelihood(backbone, tensors)
    moved = torch.arange(len(LENGTHS)) == changed
    assert (before - after).abs()[moved] > 1e-4
    torch.testing.assert_close(before[~moved], after[~moved], atol=1e-12, rtol=0)
    # And so do gradients: a row's value teaches its own weights.
    for gradient in torch.autograd.grad(before[changed], list(factors.values())):
        assert gradient[changed].abs().amax(tuple(range(1, gradient[changed].dim()))).min() > 0
        assert not gradient[~moved].any()


def test_rows_use_the_weights_of_their_own_levels(backbone: Backbone) -> None:
    """Three levels in no order, that share the factor which does not start at zero."""
    factors = make_factors(backbone, 3)
    factors = {key: value if key[2] == "B" else value[:1] for key, value in factors.items()}
    levels = torch.tensor([2, 0, 1, 1, 2, 0])
    tensors = hidden_tokens(backbone, make_rows(), generator())
    with torch.no_grad():
        with backbone.adapted(factors, ADAPTERS, {"population": levels}):
            together = log_likelihood(backbone, tensors)
        for row, level in enumerate(levels):
            own = {k: v[level][None] if k[2] == "B" else v for k, v in factors.items()}
            with backbone.adapted(own, ADAPTERS):
                expected = plain_row(backbone, tensors, row)
            torch.testing.assert_close(together[row], expected, atol=1e-10, rtol=0)


def test_copies_of_a_batch_score_alike(backbone: Backbone) -> None:
    """As for draws that each see all rows."""
    tensors = hidden_tokens(backbone, make_rows(), generator())
    once, twice = (log_likelihood(backbone, repeated(tensors, n)) for n in (1, 2))
    torch.testing.assert_close(twice, torch.cat([once, once]), atol=1e-12, rtol=0)


class _Largest(TorchDispatchMode):
    """Counts the entries of the largest tensor that is made, forwards and backwards."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            # Views of the embeddings are not made here, and their gradient is not wanted.
            if isinstance(tensor, Tensor) and not function.is_view:
                self.numel = max(self.numel, tensor.numel())
        return made


def test_the_head_of_an_encoder_runs_at_hidden_tokens_alone(minilm: Backbone) -> None:
    tensors = hidden_tokens(minilm, rows_of(minilm, [TEXTS[3]] * 40), generator())
    log_likelihood(minilm, tensors)  # looks for a head, once
    factors = make_factors(minilm, 1)
    with minilm.adapted(factors, ADAPTERS), _Largest() as largest:
        log_likelihood(minilm, tensors).sum().backward()
    vocabulary = minilm.model.config.vocab_size
    predicted = int((tensors["rebuilt_targets"] != -100).sum())
    assert largest.numel == predicted * vocabulary
    assert predicted < 0.16 * tensors["rebuilt_mask"].sum()


def test_a_short_training_brings_the_tied_head_below_equal_probabilities(minilm: Backbone) -> None:
    """MiniLM's states were never trained to predict tokens, but can learn to."""
    rows = rows_of(minilm, TEXTS)
    factors = {key: value.detach() for key, value in make_factors(minilm, 1).items()}
    for key, value in factors.items():
        value.mul_(0.0 if key[2] == "B" else 1.0).requires_grad_()
    optimizer, draw = torch.optim.Adam(factors.values(), 0.01), generator()
    losses = []
    for _ in range(15):
        with minilm.adapted(factors, ADAPTERS):
            loss = -log_likelihood(minilm, hidden_tokens(minilm, rows, draw)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    equal = F.cross_entropy(torch.zeros(1, minilm.model.config.vocab_size), torch.tensor([0]))
    assert losses[0] > equal - 1
    assert losses[-1] < equal - 2


def test_what_cannot_be_reconstructed_says_so(tiny_folders: Path) -> None:
    rows = make_rows()
    encoder_decoder = load_backbone(str(tiny_folders / "tiny-encoder-decoder"))
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        hidden_tokens(encoder_decoder, rows, generator())
    headless, maskless = decoder(), encoder()
    headless.language_model = None
    with pytest.raises(UnsupportedError, match="language-modelling head"):
        hidden_tokens(headless, rows, generator())
    maskless.tokenizer.mask_token = None
    with pytest.raises(UnsupportedError, match="mask token"):
        hidden_tokens(maskless, rows, generator())
    with pytest.raises(ConfigError, match="4 groups"):
        hidden_tokens(encoder(), rows, generator(), groups=4)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
    narrow = AlbertModel(AlbertConfig(vocab_size=VOCABULARY, embedding_size=8, **sizes))
    backbone = Backbone(narrow, MaskingTokenizer(), name="narrow", fingerprint="")
    with pytest.raises(UnsupportedError, match="8 wide"):
        log_likelihood(backbone, hidden_tokens(backbone, rows, generator()))
