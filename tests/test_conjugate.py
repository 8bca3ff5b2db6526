"""The conjugate heads against their docstrings' formulas, in float64, from plain embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_backbones import tiny_encoder

from bayes_lora import Effect, LoRA
from bayes_lora.backbone import TokenIds
from bayes_lora.data import Example
from bayes_lora.effects import Normal
from bayes_lora.meta.hierarchy import task_rows
from bayes_lora.model import BayesianModel
from bayes_lora.predict import predict
from bayes_lora.scorers import Batch, Conjugate, Discriminant, LabelledRows, Row
from bayes_lora.scorers.discriminant import LEAST_SPREAD

Array = NDArray[np.float64]
Embed = Callable[[TokenIds], Array]
LABELS = ("good film", "bad", "neither good nor bad", "odd")
WORDS = ("the", "plot", "was", "warm", "dull", "kind", "cold", "long", "bright", "mean", "slow")


@dataclass(frozen=True)
class Weights:
    """s, g, c and a; l and v, or infinity for the head without a covariance."""

    scale: float
    gain: float
    count: float
    concentration: float
    spread: float = np.inf
    degrees: float = np.inf

    def metric(self, support: Sequence[tuple[Row, int]], embed: Embed) -> Array:
        """(1 + f / v) L, the precision within classes; 1 where there is none to learn."""
        classes: dict[TokenIds, list[Array]] = {}
        for row, label in support:
            classes.setdefault(row.options[label], []).append(embed(row.ids))
        residuals = [h - np.mean(own, 0) for own in classes.values() for h in own]
        scatter = sum((np.outer(r, r) for r in residuals), np.zeros((1, 1)))
        if np.isinf(self.spread) or not residuals:
            return np.array(1.0)
        precision = np.linalg.inv(self.spread * np.eye(len(residuals[0])) + scatter)
        freedom = len(residuals) - len(classes)
        return np.array((1 + freedom / self.degrees) * self.spread * precision)


def logits_of(row: Row, support: Sequence[tuple[Row, int]], embed: Embed, head: Weights) -> Array:
    """The docstring's formulas, option by option."""
    total = sum((embed(given.ids) for given, _ in support), np.zeros(embed(row.ids).shape))
    centre = total / (len(support) + head.count)
    metric = head.metric(support, embed)
    options = [embed(option) for option in row.options]
    middle = np.mean(options, 0)
    logits = []
    for ids, option in zip(row.options, options, strict=True):
        mine = [embed(g.ids) - centre for g, label in support if g.options[label] == ids]
        prior = head.count * head.gain * (option - middle)
        mean = (prior + sum(mine, np.zeros_like(prior))) / (head.count + len(mine))
        across = np.dot(metric, mean)
        fit = (embed(row.ids) - centre) @ across - mean @ across / 2
        seen = len(mine) + head.concentration
        share = seen / (len(support) + head.concentration * len(options))
        logits.append(head.scale * fit + np.log(share))
    return np.array(logits)


class Setup:
    """A random encoder under random weights: three draws of the adapter and of the head."""

    def __init__(self, kind: type[Conjugate]) -> None:
        self.backbone = tiny_encoder()
        self.scorer = kind("mean", scale=20.0, gain=0.7, count=2.5, concentration=1.5)
        effect = Effect("task", LoRA(rank=2), Normal())
        self.model = BayesianModel(
            self.backbone, [effect], self.scorer, head_prior=Normal(), num_rows=1
        )
        generator = torch.Generator().manual_seed(0)
        self.embed = cache(self._embed)
        self.draws = {
            name: torch.randn(3, *site.shape, generator=generator, dtype=torch.float64) * 0.4
            for name, site in self.model.sites.items()
        }

    def rows(self, texts: Sequence[str], options: Sequence[Sequence[str]]) -> list[Row]:
        examples = [
            Example(input=text, options=tuple(some), label=None, where="")
            for text, some in zip(texts, options, strict=True)
        ]
        return self.scorer.rows(self.backbone, examples)

    def _embed(self, draw: int) -> Embed:
        """Mean of the last states of one text alone, at length one."""
        values = {name: value[draw : draw + 1] for name, value in self.draws.items()}

        @cache
        def embed(ids: TokenIds) -> Array:
            inputs = {"input_ids": torch.tensor([ids])}
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            with torch.no_grad(), self.model.under(values):
                mean = self.backbone.model(**inputs).last_hidden_state[0].mean(0).numpy()
            return mean / np.linalg.norm(mean)

        return embed

    def head(self, draw: int) -> Weights:
        names = [name.removeprefix("log_") for name in self.scorer.factors(8)]
        logs = [float(self.draws[f"head.log_{name}"][draw, 0]) for name in names]
        starts = [getattr(self.scorer, name) for name in names]
        head = Weights(*[start * np.exp(log) for start, log in zip(starts, logs, strict=True)])
        return replace(head, spread=head.spread + LEAST_SPREAD)

    def model_features(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Embeddings under the first draw."""
        first = {name: value[:1] for name, value in self.draws.items()}
        with torch.no_grad(), self.model.under(first):
            return self.scorer.features(self.backbone, batch)

    def expected(
        self, rows: Sequence[Row], support: Sequence[tuple[Row, int]], draw: int
    ) -> list[Array]:
        return [logits_of(row, support, self.embed(draw), self.head(draw)) for row in rows]

    def scored(
        self,
        rows: Sequence[Row],
        supports: Sequence[LabelledRows],
        own: Sequence[int] | None = None,
    ) -> Array:
        """Logits of tasks side by side, task i under draw i."""
        batch = self.scorer.collate_tasks(self.backbone, rows, supports, own)
        some = {name: value[: len(supports)] for name, value in self.draws.items()}
        with torch.no_grad():
            return self.model.logits(batch, some).numpy()


@pytest.fixture(scope="module", params=[Conjugate, Discriminant])
def setup(request: pytest.FixtureRequest) -> Setup:
    return Setup(request.param)


def texts(count: int, seed: int) -> list[str]:
    """Texts of one to nine words; the first comes twice."""
    rng = np.random.default_rng(seed)
    drawn = [" ".join(rng.choice(WORDS, 1 + int(rng.integers(9)))) for _ in range(count)]
    return drawn[: max(0, count - 1)] + drawn[: min(1, count)]


def fixed_labels(setup: Setup, count: int, seed: int, num_options: int = 3) -> LabelledRows:
    """Rows of a task with one label set; not every label needs to be somebody's."""
    rows = setup.rows(texts(count, seed), [LABELS[:num_options]] * count)
    return LabelledRows(
        rows, np.random.default_rng(seed).integers(num_options, size=count).tolist()
    )


def choices(setup: Setup, count: int, seed: int) -> LabelledRows:
    """Rows with two to nine options of their own, some of which other rows have too."""
    rng = np.random.default_rng(seed)
    pool = list(dict.fromkeys(texts(30, seed + 100)))
    options = [rng.choice(pool, 2 + i % 8, replace=False).tolist() for i in range(count)]
    labels = [int(rng.integers(len(some))) for some in options]
    return LabelledRows(setup.rows(texts(count, seed), options), labels)


KINDS = {"fixed labels": fixed_labels, "multiple choice": choices}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Callable[[Setup, int, int], LabelledRows]:
    return KINDS[request.param]


def check(actual: Array, expected: Sequence[Array]) -> None:
    """Equal, with minus infinity where a row has no such option."""
    for row, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-9, atol=1e-9)
        assert (row[len(wanted) :] == -np.inf).all()


@pytest.mark.parametrize("size", [0, 1, 2, 7, 20])
def test_scores_are_the_docstrings_formulas(setup: Setup, kind, size: int) -> None:
    support, queries = kind(setup, size, 1), kind(setup, 9, 2).rows
    check(setup.scored(queries, [support]), setup.expected(queries, list(support), 0))


def test_tasks_side_by_side_equal_each_alone(setup: Setup, kind) -> None:
    """Supports of unequal sizes and texts that several tasks have, each task under its draw."""
    supports = [kind(setup, 5, 1), kind(setup, 0, 2), kind(setup, 11, 1)]
    queries = [kind(setup, 6, seed).rows for seed in (1, 1, 3)]
    together = setup.scored([row for rows in queries for row in rows], supports)
    expected = [
        logits
        for i, (rows, support) in enumerate(zip(queries, supports, strict=True))
        for logits in setup.expected(rows, list(support), i)
    ]
    check(together, expected)


@pytest.mark.parametrize("draws", [1, 3])
def test_support_rows_are_scored_by_a_head_built_without_them(
    setup: Setup, kind, draws: int
) -> None:
    """Ragged tasks and several draws, as the steps on a task's support see them."""
    supports = [kind(setup, 7, 1), kind(setup, 3, 2)]
    rows = task_rows(setup.model, supports, supports, draws=draws)
    entries = [min(2, i) for i in range(2 * draws)]  # any weights, one set for each draw and task
    some = {name: value[entries] for name, value in setup.draws.items()}
    with torch.no_grad():
        logits = setup.model.logits(rows.inputs, some).numpy().reshape(2 * draws, 7, -1)
    for place, scored in enumerate(logits):
        support = list(supports[place % 2])
        expected = [
            setup.expected([row], support[:i] + support[i + 1 :], entries[place])[0]
            for i, (row, _) in enumerate(support)
        ]
        check(scored[: len(support)], expected)


def test_prediction_equals_the_formulas_under_each_draw(setup: Setup, kind) -> None:
    """Shared embeddings, chunks and folded draws included; rows of one to nine options."""
    support, queries = kind(setup, 8, 1), kind(setup, 10, 2).rows
    model = BayesianModel(
        setup.backbone,
        [Effect("task", LoRA(rank=2), Normal())],
        setup.scorer.with_support(support),
        head_prior=Normal(),
        num_rows=1,
    )
    for tokens in (40, 10**6):
        per_draw = predict(
            model, setup.draws, queries, tokens_per_pass=tokens, keep_draws=True
        ).per_draw
        assert per_draw is not None
        for draw in range(3):
            for row, logits in zip(
                per_draw[draw], setup.expected(queries, list(support), draw), strict=True
            ):
                wanted = np.exp(logits - np.logaddexp.reduce(logits))
                np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-8, atol=1e-10)
                assert not row[len(wanted) :].any()


@pytest.mark.parametrize("left_out", [False, True])
def test_copies_have_weights_and_support_of_their_own(setup: Setup, kind, left_out: bool) -> None:
    support = kind(setup, 6, 1)
    queries = list(support.rows) if left_out else list(kind(setup, 5, 2).rows)
    own = list(range(6)) if left_out else None
    one = setup.scorer.collate_tasks(setup.backbone, queries, [support], own)
    with torch.no_grad():
        logits = setup.model.logits(setup.scorer.repeat(one, 3), setup.draws).numpy()
    for draw, scored in enumerate(logits.reshape(3, len(queries), -1)):
        given = list(support)
        rests = [given[:i] + given[i + 1 :] if left_out else given for i in range(len(queries))]
        expected = [
            setup.expected([row], rest, draw)[0] for row, rest in zip(queries, rests, strict=True)
        ]
        check(scored, expected)


def test_the_order_of_the_support_does_not_matter(setup: Setup, kind) -> None:
    support, queries = kind(setup, 9, 1), kind(setup, 6, 2).rows
    order = np.random.default_rng(0).permutation(9)
    shuffled = LabelledRows([support.rows[i] for i in order], [support.labels[i] for i in order])
    np.testing.assert_allclose(
        setup.scored(queries, [shuffled]), setup.scored(queries, [support]), rtol=1e-10
    )


@pytest.mark.parametrize("num_options", [2, 3, 4])
def test_without_support_it_is_similarity_to_centred_options(
    setup: Setup, num_options: int
) -> None:
    """Up to what is the same for all options of a row, and the prior means' own lengths."""
    rows = fixed_labels(setup, 6, 1, num_options).rows
    embed, head = setup.embed(0), setup.head(0)
    options = np.array([embed(ids) for ids in rows[0].options])
    centred = options - options.mean(0)
    inputs = np.array([embed(row.ids) for row in rows])
    similarity = head.scale * head.gain * inputs @ centred.T
    lengths = head.scale * head.gain**2 * (centred**2).sum(1) / 2
    if num_options == 2:  # both are as long
        lengths = 0 * lengths
    scored = setup.scored(rows, [LabelledRows()])
    difference = scored - (similarity - lengths)
    np.testing.assert_allclose(difference, difference[:, :1].repeat(num_options, 1), atol=1e-9)


def test_single_precision_is_enough_where_the_spread_is_least() -> None:
    """Leaving a row out subtracts nearly equal numbers when l is small."""
    setup = Setup(Discriminant)
    setup.draws["head.log_spread"] = torch.full_like(setup.draws["head.log_spread"], -10.0)
    support = fixed_labels(setup, 12, 3)
    batch = setup.scorer.collate_tasks(setup.backbone, support.rows, [support], range(12))
    features = setup.model_features(batch)
    weights = {n: setup.draws[f"head.{n}"][:1] for n in setup.scorer.factors(8)}
    exact = setup.scorer.score(features, batch, weights)
    single = setup.scorer.score(
        {name: value.float() for name, value in features.items()},
        batch,
        {name: value.float() for name, value in weights.items()},
    )
    np.testing.assert_allclose(single.numpy(), exact.numpy(), atol=0.02)


def test_means_are_those_of_gaussian_conditioning() -> None:
    """m ~ Normal(g e, 1 / c), h_i | m ~ Normal(m, 1): the mean of m given the h, from their
    joint covariance. Logits are affine in the input, which gives the head's means away."""
    setup = Setup(Conjugate)
    support, width = fixed_labels(setup, 8, 1), 5
    head, rng = setup.head(0), np.random.default_rng(0)
    rows = [support.rows[0]] * (width + 1)
    batch = setup.scorer.collate_tasks(setup.backbone, rows, [support])
    bank = rng.normal(size=(int(batch["bank_size"]), width))
    inputs = np.vstack([np.eye(width), np.zeros(width)])
    weights = {name: setup.draws[f"head.{name}"][:1] for name in setup.scorer.factors(width)}
    features = {"inputs": torch.tensor(inputs), "bank": torch.tensor(bank)}
    logits = setup.scorer.score(features, batch, weights).numpy()
    means = (logits[:-1] - logits[-1]).T / head.scale  # [options, width]

    given, answers = bank[batch["support"].numpy()], batch["answer"].numpy()
    given = given - given.sum(0) / (len(given) + head.count)
    options = bank[batch["which"][0].numpy()]
    for mean, place, option in zip(
        means, batch["which"][0].tolist(), options - options.mean(0), strict=True
    ):
        mine = given[answers == place]
        prior = head.gain * option
        joint = np.eye(len(mine)) + np.ones((len(mine), len(mine))) / head.count
        gain = np.ones(len(mine)) / head.count @ np.linalg.inv(joint)
        np.testing.assert_allclose(mean, prior + gain @ (mine - prior), rtol=1e-9, atol=1e-9)


def test_a_row_alone_in_its_support_is_scored_as_without_any(setup: Setup, kind) -> None:
    support = kind(setup, 1, 3)
    alone = setup.scored(support.rows, [support], own=[0])
    np.testing.assert_allclose(alone, setup.scored(support.rows, [LabelledRows()]), rtol=1e-10)


def test_an_option_that_nobody_answered_keeps_its_prior(setup: Setup) -> None:
    support = fixed_labels(setup, 6, 1, 2)
    wide = [replace(row, options=(*row.options, (5, 6, 7))) for row in support.rows]
    queries = wide[:3]
    check(
        setup.scored(queries, [LabelledRows(wide, support.labels)]),
        setup.expected(queries, list(zip(wide, support.labels, strict=True)), 0),
    )
