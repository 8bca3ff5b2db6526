"""Scores against plain passes over plain models, and the work that is saved, counted."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny_backbones import tiny_decoder
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PreTrainedTokenizerBase,
)

from bayes_lora import Effect, LoRA, Posterior, load_backbone
from bayes_lora.backbone import Backbone
from bayes_lora.backbone.adapted_linear import AdaptedLinear
from bayes_lora.backbone.loading import _minilm_folder
from bayes_lora.data import Example, Kind, Task, TaskSet, unlabelled
from bayes_lora.effects import Normal
from bayes_lora.errors import ConfigError, InputDataError, UnsupportedError
from bayes_lora.model import BayesianModel
from bayes_lora.predict import predict
from bayes_lora.scorers import (
    Likelihood,
    Row,
    default_scorer,
    keep_scorable,
    make_scorer,
)
from bayes_lora.scorers.continuation import fits_in_one_sequence

TEXTS = ["Once upon a time there was a little", "The cat sat on the mat and", "One day"]
OPTIONS = [
    ("girl named Lily", "dog", "big red ball"),
    ("slept", "ran away to the park"),
    ("they went home", "it rained", "a big dog came", "she was sad"),
]
EXAMPLES = [
    Example(input=text, options=options, label=0, where=f"row {i}")
    for i, (text, options) in enumerate(zip(TEXTS, OPTIONS, strict=True))
]
LANGUAGE_MODELS = ["tinystories-656K", "stories260K"]


def plain_scores(model: torch.nn.Module, ids: list[int], option: list[int]) -> torch.Tensor:
    """The mean log-probability of an option's tokens: full logits at every position."""
    logits = model(input_ids=torch.tensor([ids + option])).logits[0]
    predicted = logits.double().log_softmax(-1)[len(ids) - 1 : -1]
    return predicted[torch.arange(len(option)), torch.tensor(option)].mean()


def plain_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, options: tuple[str, ...]
) -> tuple[list[int], list[list[int]]]:
    """The prompt and what each option adds to it, from whole texts tokenized as a user would."""
    for end, glue in (("\nAnswer:", " "), ("\nAnswer: ", ""), ("\nAnswer:\n", "")):
        prompt = _ids(tokenizer, text + end)
        whole = [_ids(tokenizer, text + end + glue + option) for option in options]
        if all(ids[: len(prompt)] == prompt for ids in whole):
            return prompt, [ids[len(prompt) :] for ids in whole]
    raise AssertionError("no end of the prompt fits")


def plain_target_probabilities(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    options: tuple[str, ...],
) -> np.ndarray:
    """Options as targets of an encoder-decoder, which shifts its labels right by itself."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    scores = []
    for option in options:
        target = torch.tensor([tokenizer(text_target=option)["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids, labels=target).logits[0].double()
        token_scores = logits.log_softmax(-1)[torch.arange(target.shape[1]), target[0]]
        scores.append(token_scores.mean())
    return torch.stack(scores).softmax(0).numpy()


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids without the special token that some tokenizers put at the end."""
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1] in tokenizer.all_special_ids else ids


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_likelihood_equals_full_logits_over_the_real_language_models(
    name: str, data_folder: Path
) -> None:
    path = str(data_folder / "causal_lm" / name)
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    posterior = Posterior.pretrained(load_backbone(path), "likelihood")
    predictions = posterior.predict(EXAMPLES, draws=0)
    for example, row in zip(EXAMPLES, predictions.probabilities, strict=True):
        prompt, options = plain_tokens(tokenizer, example.input, example.options)
        with torch.no_grad():
            scores = torch.stack([plain_scores(model, prompt, option) for option in options])
        expected = scores.softmax(0).numpy()
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4)
        assert not row[len(expected) :].any()


def test_likelihood_equals_full_logits_over_an_encoder_decoder(tiny_folders: Path) -> None:
    path = str(tiny_folders / "tiny-encoder-decoder")
    model = AutoModelForSeq2SeqLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    posterior = Posterior.pretrained(load_backbone(path), "likelihood")
    examples = [Example(input="where \\n a story", options=OPTIONS[0], label=0, where="x")]
    examples += EXAMPLES
    inputs = ["where \\n (A) girl named Lily (B) dog (C) big red ball \\n a story"]
    inputs += [
        f"{example.input} \\n "
        + " ".join(f"({c}) {o}" for c, o in zip("ABCD", example.options, strict=False))
        for example in EXAMPLES
    ]
    probabilities = posterior.predict(examples, draws=0).probabilities
    for example, text, row in zip(examples, inputs, probabilities, strict=True):
        expected = plain_target_probabilities(model, tokenizer, text, example.options)
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["tinystories-656K", "tiny-decoder", "tiny-encoder-decoder"])
def test_letters_equal_full_logits(
    name: str, tiny_folders: Path, request: pytest.FixtureRequest
) -> None:
    if name.startswith("tiny-"):
        path = str(tiny_folders / name)
    else:
        path = str(request.getfixturevalue("data_folder") / "causal_lm" / name)
    backbone = load_backbone(path)
    posterior = Posterior.pretrained(backbone, "likelihood-letter")
    tokenizer = AutoTokenizer.from_pretrained(path)
    encoder_decoder = name == "tiny-encoder-decoder"
    kind = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    model = kind.from_pretrained(path)
    for example in EXAMPLES:
        (row,) = posterior.predict([example], draws=0).probabilities
        listed = " ".join(f"({c}) {o}" for c, o in zip("ABCD", example.options, strict=False))
        letters = tuple("ABCD"[: len(example.options)])
        with torch.no_grad():
            if encoder_decoder:
                ids = tokenizer(f"{example.input} \\n {listed}", return_tensors="pt")["input_ids"]
                start = torch.tensor([[model.config.decoder_start_token_id]])
                logits = model(input_ids=ids, decoder_input_ids=start).logits[0, -1]
                tokens = [tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in letters]
            else:
                text = f"{example.input}\n{listed}"
                prompt, options = plain_tokens(tokenizer, text, letters)
                tokens = [token for (token,) in options]
                logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        expected = logits.double()[tokens].softmax(0).numpy()
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_likelihood_takes_row_aligned_weights(tiny_folders: Path) -> None:
    """Two draws over packed options equal two plain models with the draws merged in."""
    backbone = load_backbone(str(tiny_folders / "tiny-decoder"))
    backbone.double()
    scorer = Likelihood()
    effect = Effect("population", LoRA(rank=2), Normal(1.0))
    model = BayesianModel(backbone, [effect], scorer, head_prior=Normal(1.0), num_rows=3).double()
    torch.manual_seed(0)
    values = {n: torch.randn(2, *site.shape).double() for n, site in model.sites.items()}
    values["head.log_scale"] *= 0.1
    rows = scorer.rows(backbone, EXAMPLES)
    ours = predict(model, values, rows, keep_draws=True).per_draw
    assert ours is not None
    for draw in range(2):
        plain = _merged(backbone, {name: value[draw] for name, value in values.items()})
        scale = values["head.log_scale"][draw].exp()
        for row, probabilities in zip(rows, ours[draw], strict=True):
            with torch.no_grad():
                scores = torch.stack([plain_scores(plain, [*row.ids], [*o]) for o in row.options])
            expected = (scale * scores).softmax(0).numpy()
            np.testing.assert_allclose(probabilities[: len(expected)], expected, atol=1e-9)


def _merged(backbone: Backbone, values: dict[str, torch.Tensor]) -> torch.nn.Module:
    plain = copy.deepcopy(backbone.language_model)
    plain.set_output_embeddings(plain.get_output_embeddings().base)
    for group in backbone.groups:
        for layer, name in enumerate(group.layers):
            a, b = (values[f"population.{group.name}.{factor}"][layer] for factor in "AB")
            parent, child = plain.base_model.get_submodule(name.rpartition(".")[0]), name
            base = plain.base_model.get_submodule(name).base
            base.weight.add_(LoRA(rank=2).scale * b @ a)
            setattr(parent, child.rpartition(".")[2], base)
    assert not any(isinstance(module, AdaptedLinear) for module in plain.modules())
    return plain


def test_similarity_equals_sentence_transformers() -> None:
    reference = SentenceTransformer(str(_minilm_folder()), device="cpu")
    posterior = Posterior.pretrained(load_backbone("minilm"), "similarity")
    probabilities = posterior.predict(EXAMPLES, draws=0).probabilities
    for example, row in zip(EXAMPLES, probabilities, strict=True):
        text = reference.encode(example.input, convert_to_tensor=True)
        options = reference.encode(list(example.options), convert_to_tensor=True)
        cosines = torch.nn.functional.cosine_similarity(text, options).double()
        expected = (20 * cosines).softmax(0).numpy()
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize("older_file", [False, True])
def test_a_sentence_encoder_is_pooled_as_it_was_trained(
    mode: str, older_file: bool, tiny_folders: Path, tmp_path: Path
) -> None:
    transformer = Transformer(str(tiny_folders / "tiny-encoder"))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
    reference = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    reference.save_pretrained(str(tmp_path / "encoder"))
    if older_file:
        key = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}[mode]
        (tmp_path / "encoder" / "1_Pooling" / "config.json").write_text(
            f'{{"word_embedding_dimension": 32, "pooling_mode_{key}": true}}'
        )
    backbone = load_backbone(str(tmp_path / "encoder"))
    posterior = Posterior.pretrained(backbone, "similarity")
    for example in EXAMPLES:
        (row,) = posterior.predict([example], draws=0).probabilities
        text = reference.encode(example.input, convert_to_tensor=True)
        options = reference.encode(list(example.options), convert_to_tensor=True)
        cosines = torch.nn.functional.cosine_similarity(text, options).double()
        np.testing.assert_allclose(row, (20 * cosines).softmax(0).numpy(), atol=1e-5)


def test_a_pooling_that_is_not_known_is_refused(tiny_folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folders / "tiny-encoder", tmp_path / "encoder")
    (folder / "1_Pooling").mkdir()
    for content, message in (
        ('{"pooling_mode": "max"}', "pools by max"),
        ('{"pooling_mode_max_tokens": true}', "pools by max"),
        ("{}", "none of the known ways"),
    ):
        (folder / "1_Pooling" / "config.json").write_text(content)
        with pytest.raises(UnsupportedError, match=message):
            load_backbone(str(folder))


def test_similarity_embeds_each_label_once_a_draw(
    tiny_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 rows of a 6-label task: 1,006 sequences a draw, and their tokens, padding counted."""
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    posterior = Posterior.pretrained(backbone, "similarity")
    labels = ("sadness", "joy", "love", "anger", "fear", "surprise")
    texts = [f"row number {i} of the task" for i in range(1000)]
    seen: list[torch.Tensor] = []
    plain = Backbone.states

    def counted(self: Backbone, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.append(inputs["attention_mask"])
        return plain(self, inputs)

    monkeypatch.setattr(Backbone, "states", counted)
    draws = {"head.log_scale": torch.zeros(3, 1)}
    rows = posterior.config.scorer.rows(backbone, unlabelled(texts, labels))
    predict(posterior.model, draws, rows)
    assert sum(len(mask) for mask in seen) == 3 * (1000 + 6)
    tokens = sum(len(row.ids) for row in rows) + sum(len(ids) for ids in rows[0].options)
    assert sum(int(mask.sum()) for mask in seen) == 3 * tokens


def test_the_head_does_at_most_2_percent_of_the_full_vocabularys_work() -> None:
    """Vocabulary 32,000, options of 3 tokens, prompts of 120: counted by torch."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    language_model = LlamaForCausalLM(config)
    backbone = Backbone(
        language_model.base_model,
        tiny_decoder().tokenizer,
        name="x",
        fingerprint="",
        language_model=language_model,
    )
    backbone.tokenizer.pad_token_id = 0
    ids = torch.randint(1, 32_000, (2, 4, 3)).tolist()
    rows = [Row(tuple(range(1, 121)), tuple(map(tuple, options))) for options in ids]
    scorer, head = Likelihood(), {"log_scale": torch.zeros(1, 1)}

    def head_flops(run: object) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        return sum(counter.get_flop_counts()["LlamaForCausalLM.lm_head"].values())

    batch = scorer.collate(backbone, rows)
    ours = head_flops(lambda: scorer.logits(backbone, batch, head))
    whole = torch.tensor([[*row.ids, *option] for row in rows for option in row.options])
    full = head_flops(lambda: language_model(input_ids=whole))
    assert full == 2 * whole.numel() * 16 * 32_000
    assert ours <= 0.02 * full
    single = [Row(row.ids, tuple(o[:1] for o in row.options)) for row in rows]
    batch = scorer.collate(backbone, single)
    few = head_flops(lambda: scorer.logits(backbone, batch, head))
    assert few <= 1e-4 * full


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL = {"vocab_size": 30522, "intermediate_size": 48}
# Models that answer to a mask of ours in every way there is: they keep to it; their window, or
# their positions by place, or the state they carry, does not.
ARCHITECTURES = {
    "gpt2": GPT2Config(vocab_size=30522, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "opt": OPTConfig(
        vocab_size=30522,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
    ),
    "mistral, window 8": MistralConfig(
        **SIZES, **SMALL, num_key_value_heads=2, sliding_window=8, head_dim=8
    ),
    "gemma2, soft caps": Gemma2Config(
        **SIZES, **SMALL, num_key_value_heads=2, sliding_window=4, head_dim=8
    ),
    "bloom, no positions": BloomConfig(vocab_size=30522, hidden_size=32, n_layer=2, n_head=4),
    "mpt, no positions": MptConfig(vocab_size=30522, d_model=32, n_layers=2, n_heads=4),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_likelihood_is_right_on_every_architecture(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Ragged options and prompts of several lengths in one batch, against a plain loop."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(ARCHITECTURES[name]).save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(str(_minilm_folder()))
    tokenizer.save_pretrained(tmp_path / "model")
    path = str(tmp_path / "model")
    backbone = load_backbone(path, dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    probabilities = Posterior.pretrained(backbone, "likelihood").predict(EXAMPLES, draws=0)
    for example, row in zip(EXAMPLES, probabilities.probabilities, strict=True):
        prompt, options = plain_tokens(tokenizer, example.input, example.options)
        with torch.no_grad():
            scores = torch.stack([plain_scores(model, prompt, option) for option in options])
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        expected = scores.softmax(0).numpy()
        np.testing.assert_allclose(row[: len(expected)], expected, atol=tolerance)


def test_models_share_a_prompt_only_where_that_is_right() -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(_minilm_folder()))
    shares = {}
    for name, config in ARCHITECTURES.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        backbone = Backbone(
            model.base_model, tokenizer, name=name, fingerprint="", language_model=model
        )
        rows = Likelihood().rows(backbone, EXAMPLES)
        shares[name] = all(fits_in_one_sequence(backbone, row) for row in rows)
    assert [name for name, shared in shares.items() if shared] == ["gpt2", "opt"]


def test_options_need_positions_too(tmp_path: Path) -> None:
    """Prompt and option together stay within the positions a model has."""
    torch.manual_seed(0)
    config = ARCHITECTURES["gpt2"]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(str(_minilm_folder())).save_pretrained(tmp_path / "model")
    backbone = load_backbone(str(tmp_path / "model"))
    options = ("word " * 30, "another " * 20)
    example = Example(input="many words " * 50, options=options, label=0, where="x")
    (row,) = Likelihood().rows(backbone, [example])
    assert row.cut
    assert len(row.ids) + 30 - 1 <= 64
    posterior = Posterior.pretrained(backbone, "likelihood")
    assert np.isfinite(posterior.predict([example], draws=0).probabilities).all()
    assert "over half" in str(Likelihood().problem(backbone, ("word " * 40, "other")))


def test_an_encoder_decoder_with_a_bias_behind_its_head(tmp_path: Path) -> None:
    """BART's targets begin with a token of their own, so its letters are not one token."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(_minilm_folder()))
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.sep_token_id,
    )
    model = BartForConditionalGeneration(config).eval()
    model.final_logits_bias.normal_()
    model.save_pretrained(tmp_path / "bart")
    tokenizer.save_pretrained(tmp_path / "bart")
    backbone = load_backbone(str(tmp_path / "bart"))
    posterior = Posterior.pretrained(backbone, "likelihood")
    probabilities = posterior.predict(EXAMPLES, draws=0).probabilities
    for example, row in zip(EXAMPLES, probabilities, strict=True):
        listed = " ".join(f"({c}) {o}" for c, o in zip("ABCD", example.options, strict=False))
        text = f"{example.input} \\n {listed}"
        expected = plain_target_probabilities(model, tokenizer, text, example.options)
        np.testing.assert_allclose(row[: len(expected)], expected, atol=1e-5)
    with pytest.raises(InputDataError, match="each letter a token"):
        Posterior.pretrained(backbone, "likelihood-letter").predict(EXAMPLES, draws=0)


def _task(options: tuple[str, ...], kind: Kind = Kind.FIXED_LABELS, name: str = "task") -> Task:
    examples = (Example(input="a text", options=options, label=0, where=f"{name}, row 1"),)
    return Task(name, examples, kind=kind)


@pytest.mark.parametrize(
    ("name", "tasks", "expected"),
    [
        ("tiny-encoder", [_task(("a", "b"))], "class-head"),
        ("tiny-encoder", [_task(("a", "b")), _task(("a", "b"))], "class-head"),
        ("tiny-encoder", [_task(("a", "b")), _task(("b", "c"))], "similarity"),
        ("tiny-encoder", [_task(("a", "b"), Kind.MULTIPLE_CHOICE)], "similarity"),
        ("tiny-decoder", [_task(("a", "b"))], "class-head"),
        ("tiny-decoder", [_task(("a", "b"), Kind.MULTIPLE_CHOICE)], "likelihood"),
        ("tiny-encoder-decoder", [_task(("a", "b"))], "likelihood"),
    ],
)
def test_the_default_scorer(
    name: str, tasks: list[Task], expected: str, tiny_folders: Path
) -> None:
    assert default_scorer(load_backbone(str(tiny_folders / name)), tasks) == expected


def test_scorers_that_do_not_fit_are_refused(tiny_folders: Path) -> None:
    encoder = load_backbone(str(tiny_folders / "tiny-encoder"))
    both = load_backbone(str(tiny_folders / "tiny-encoder-decoder"))
    with pytest.raises(UnsupportedError, match="language model"):
        make_scorer("likelihood", encoder, ())
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        make_scorer("similarity", both, ())
    tasks = [_task(("a", "b"), name="one"), _task(("c", "d"), name="two")]
    with pytest.raises(InputDataError, match=r"one label set.*'one' and 'two'"):
        make_scorer("class-head", encoder, tasks)
    with pytest.raises(ConfigError, match="choose from"):
        make_scorer("cosine", encoder, ())
    with pytest.raises(ConfigError, match="knows nothing before"):
        Posterior.pretrained(encoder, "class-head")


BAD_OPTIONS = {
    "nothing for similarity": ("tiny-encoder", "similarity", ("good", "\u200b"), "no token"),
    "unknown to similarity": ("tiny-encoder", "similarity", ("good", "🦖"), "'🦖'.*no token"),
    "nothing for likelihood": ("tiny-decoder", "likelihood", ("good", "\u200b"), "no tokens"),
    "unknown to likelihood": ("tiny-decoder", "likelihood", ("good", "🦖"), "'🦖'.*not know"),
    "a prefix": ("tiny-decoder", "likelihood", ("more", "more wine"), "'more' is how 'more wine'"),
    "too many letters": (
        "tiny-decoder",
        "likelihood-letter",
        tuple(f"option {i}" for i in range(27)),
        "27 options",
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_cannot_be_scored(case: str, tiny_folders: Path) -> None:
    name, scorer_name, options, message = BAD_OPTIONS[case]
    backbone = load_backbone(str(tiny_folders / name))
    posterior = Posterior.pretrained(backbone, scorer_name)
    bad = _task(options, name="bad")
    with pytest.raises(InputDataError, match=f"bad, row 1: .*{message}"):
        posterior.predict(bad.examples, draws=0)
    scorer = posterior.config.scorer
    good = _task(("yes", "no"), name="good")
    kept = keep_scorable(TaskSet((good, bad)), scorer, backbone)
    assert [task.name for task in kept] == ["good"]
    assert "bad" in kept.warnings[0]
    with pytest.raises(InputDataError, match=message):
        keep_scorable(TaskSet((good, bad)), scorer, backbone, strict=True)
    with pytest.raises(InputDataError, match="No row can be scored"):
        keep_scorable(TaskSet((bad,)), scorer, backbone)


def test_an_encoder_decoder_ends_its_options_so_none_is_a_prefix(tiny_folders: Path) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder-decoder"))
    assert Likelihood().problem(backbone, ("more", "more wine")) is None


def test_rows_that_cannot_be_scored_are_counted(tiny_folders: Path) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-decoder"))
    prefix = Example(input="x", options=("at four", "at four thirty"), label=0, where="row 9")
    task = Task("choices", (*EXAMPLES, prefix), kind=Kind.MULTIPLE_CHOICE)
    (kept,) = keep_scorable(TaskSet((task,)), Likelihood(), backbone)
    assert kept.examples == tuple(EXAMPLES)
    assert "1 of 4 rows" in kept.warnings[0]
    assert "row 9" in kept.warnings[0]


def test_options_that_a_model_reads_alike_are_counted() -> None:
    posterior = Posterior.pretrained(load_backbone("minilm"), "similarity")
    example = Example(input="x", options=("Polish", "polish", "Czech"), label=0, where="row 9")
    task = Task("choices", (*EXAMPLES, example), kind=Kind.MULTIPLE_CHOICE)
    scorer, backbone = posterior.config.scorer, posterior.model.backbone
    (kept,) = keep_scorable(TaskSet((task,)), scorer, backbone)
    assert kept.examples == task.examples
    (warning,) = kept.warnings
    assert "1 of 4 rows have options that this model reads alike" in warning
    assert "row 9" in warning
    (row,) = posterior.predict([example], draws=0).probabilities
    assert row[0] == pytest.approx(row[1])


def test_of_a_pair_the_longer_part_is_cut() -> None:
    backbone = load_backbone("minilm", max_length=20)
    long = " ".join(["premise"] * 40)
    (tokens,) = backbone.encode([f"{long} [SEP] the hypothesis stays whole"])
    text = backbone.tokenizer.decode(tokens.ids)
    assert len(tokens.ids) == 20
    assert tokens.cut
    assert text.startswith("[CLS] premise premise")
    assert text.endswith("[SEP] the hypothesis stays whole [SEP]")
    (tokens,) = backbone.encode([f"the question \\n {long}"])
    assert "the question" in backbone.tokenizer.decode(tokens.ids)


def test_a_text_without_parts_loses_its_end_as_transformers_cuts_it() -> None:
    backbone = load_backbone("minilm", max_length=12)
    text = " ".join(f"word{i}" for i in range(30))
    expected = backbone.tokenizer(text, truncation=True, max_length=12)["input_ids"]
    (tokens,) = backbone.encode([text])
    assert list(tokens.ids) == expected


def test_what_must_follow_a_text_is_never_cut(tiny_folders: Path) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-decoder"), max_length=12)
    (tokens,) = backbone.encode(["many words " * 20], ["\nAnswer:"])
    assert len(tokens.ids) == 12
    assert "answer :" in backbone.tokenizer.decode(tokens.ids)
    with pytest.raises(ConfigError, match="max_length 12 leaves no room"):
        backbone.encode(["many words " * 20], [" option" * 15])


def test_a_pretrained_backbone_is_saved_and_loaded_like_a_run(
    tiny_folders: Path, tmp_path: Path
) -> None:
    path = str(tiny_folders / "tiny-decoder")
    posterior = Posterior.pretrained(load_backbone(path), "likelihood")
    posterior.save_pretrained(tmp_path / "run")
    loaded = Posterior.from_pretrained(tmp_path / "run")
    before, after = (p.predict(EXAMPLES, draws=0).probabilities for p in (posterior, loaded))
    assert np.array_equal(before, after)
