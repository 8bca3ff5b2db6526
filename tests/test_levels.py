"""Levels through the whole library: every row its own weights, and what is known of these."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_gaussian import FullUpdate
from linear_levels import BY_USER, POPULATION, WIDTH, LevelProblem
from test_conformance import EXAMPLES, TASK, make_choices
from tiny_backbones import WordTokenizer
from torch import Tensor
from torch.nn import functional as F

from bayes_lora import FitSettings, Posterior, Task, fit, load_backbone
from bayes_lora.adapters import Adapter, KronA, LoRA
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example, Levels
from bayes_lora.effects import Effect, Flat, Normal, Pooled, Prior
from bayes_lora.errors import ConfigError, DataWarning
from bayes_lora.fusion import Fusion
from bayes_lora.guides import LevelPoints, PointGuide
from bayes_lora.inference.attributes import AttributeSettings
from bayes_lora.inference.levels import fit_levels
from bayes_lora.inference.linearise import linearise
from bayes_lora.inference.svi import SVIModule
from bayes_lora.level_draws import Unknown, draw_levels, find_levels
from bayes_lora.level_effect import LevelEffect, LevelRows
from bayes_lora.model import BayesianModel
from bayes_lora.predict import predict
from bayes_lora.reconstruction import hidden_tokens
from bayes_lora.scorers import LabelledRows, Row, make_scorer
from bayes_lora.terms import Terms
from calibration import entropy, nll

USER, ITEM = "by user", "by item"
NAMES = {USER: ("ann", "ben", "cleo"), ITEM: ("book", "film")}
COUNTS = {USER: (4, 2, 3), ITEM: (5, 2)}
NORMAL = Normal()
# Of users and items: those that are alike may be computed as one.
ADAPTERS: dict[str, tuple[Adapter, Adapter]] = {
    "mixed": (KronA(), LoRA(rank=1, alpha=3.0)),
    "krona": (KronA(scale=0.7), KronA(scale=0.7)),
    "krona-rank-one": (KronA(rank=1), KronA(rank=1)),
}
TINY = (
    ("tiny-encoder", "class-head"),
    ("tiny-encoder", "similarity"),
    ("tiny-decoder", "class-head"),
    ("tiny-decoder", "likelihood"),
    ("tiny-decoder", "likelihood-letter"),
    ("tiny-encoder-decoder", "likelihood"),
)


class Program:
    """A population, users and items on a random backbone in float64, all weights at random.

    Args:
        folder: Where the backbone lies.
        scorer: How options are scored; rows have options of their own unless by a class head.
        fusion: How views are fused.
        prior: Of users and items.
        draws: Of everything.
        adapters: Of users and items.
    """

    def __init__(
        self,
        folder: Path,
        scorer: str,
        fusion: Fusion = Fusion.SUM,
        prior: Prior = NORMAL,
        draws: int = 1,
        adapters: tuple[Adapter, Adapter] = ADAPTERS["mixed"],
    ) -> None:
        self.backbone = load_backbone(str(folder), dtype=torch.float64)
        user, item = adapters
        self.adapters = {"population": LoRA(rank=2), USER: user, ITEM: item}
        examples = EXAMPLES[:7] if scorer == "class-head" else make_choices(7).examples
        self.model = BayesianModel(
            self.backbone,
            [
                Effect(name, own, prior, by=name[3:]) if name in NAMES else Effect(name, own)
                for name, own in self.adapters.items()
            ],
            make_scorer(scorer, self.backbone, [Task("words", tuple(EXAMPLES))]),
            head_prior=Normal(),
            num_rows=10,
            levels={name: Levels(name[3:], NAMES[name], COUNTS[name]) for name in NAMES},
            fusion=fusion,
        ).double()
        generator = torch.Generator().manual_seed(3)
        self.values = {
            name: 0.5 * site.unit * _normal(generator, draws, *site.shape)
            for name, site in self.model.sites.items()
        }
        for effect in self.model.by_level.values():
            if effect.pooled:
                effect.directions.copy_(_normal(generator, *effect.directions.shape) / 4)
        self.coordinates = {
            name: _normal(generator, draws, len(NAMES[name]), effect.width) / 2
            for name, effect in self.model.by_level.items()
        }
        self.rows = self.model.scorer.rows(self.backbone, examples)

    def logits(self, levels: Mapping[str, Sequence[int]]) -> Tensor:
        """Score all rows in one batch, under the first draw."""
        own = {
            name: LevelRows(self.coordinates[name][0], torch.tensor(rows))
            for name, rows in levels.items()
        }
        values = {name: value[:1] for name, value in self.values.items()}
        batch = self.model.scorer.collate(self.backbone, self.rows)
        with torch.no_grad():
            return self.model.logits(batch, values, levels=own)

    def change(self, effect: str, level: int | None = None) -> dict[str, Tensor]:
        """What an effect adds to each layer's weight matrix, dense; no level code but its names."""
        factors = {s.key: self.values[n][0] for n, s in self.model.sites.items() if s.key}
        if level is not None:
            own = self.coordinates[effect][0, level : level + 1]
            factors |= {k: v[0] for k, v in self.model.by_level[effect].factors(own).items()}
        adapter, changes = self.adapters[effect], {}
        for group in self.backbone.groups:
            for i, layer in enumerate(group.layers):
                part = {k[2]: v[i] for k, v in factors.items() if k[:2] == (effect, group.name)}
                changes[layer] = _dense(adapter, part)
        return changes

    def row(self, i: int, changes: dict[str, Tensor], of_options: dict[str, Tensor]) -> Tensor:
        """Score one row alone with changed weights, and no adapter at all."""
        scorer = self.model.scorer
        batch = scorer.collate(self.backbone, self.rows[i : i + 1])
        head = {
            n.split(".", 1)[1]: self.values[n][:1]
            for n, s in self.model.sites.items()
            if s.key is None
        }
        with torch.no_grad(), merged(self.backbone, changes):
            if "option_ids_0" not in batch:
                return scorer.logits(self.backbone, batch, head)[0]
            embedded = scorer.embed_all(self.backbone, batch, "input")[0]
        with torch.no_grad(), merged(self.backbone, of_options):
            options = scorer.embed_all(self.backbone, batch, "option")
        cosines = F.cosine_similarity(embedded, options)[batch["which"][0]]
        return 20 * head["log_scale"][0].exp() * cosines


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _dense(adapter: Adapter, factors: dict[str, Tensor]) -> Tensor:
    if isinstance(adapter, KronA):
        right = factors["D"] if adapter.rank is None else factors["V"] @ factors["U"]
        return adapter.scale * torch.kron(factors["C"], right)
    assert isinstance(adapter, LoRA)
    return adapter.scale * factors["B"] @ factors["A"]


def added(*changes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {layer: torch.stack([c[layer] for c in changes]).sum(0) for layer in changes[0]}


def times(weight: float, change: dict[str, Tensor]) -> dict[str, Tensor]:
    return {layer: weight * value for layer, value in change.items()}


@contextmanager
def merged(backbone: Backbone, changes: dict[str, Tensor]) -> Iterator[None]:
    """Change the frozen weights themselves inside the ``with`` block."""
    weights = {layer: backbone.model.get_submodule(layer).base.weight for layer in changes}
    before = {layer: weight.clone() for layer, weight in weights.items()}
    try:
        for layer, weight in weights.items():
            weight.add_(changes[layer])
        yield
    finally:
        for layer, weight in weights.items():
            weight.copy_(before[layer])


@pytest.fixture(params=TINY, ids=" ".join)
def tiny_pair(request: pytest.FixtureRequest, tiny_folders: Path) -> tuple[Path, str]:
    name, scorer = request.param
    return tiny_folders / name, scorer


USERS, ITEMS = (0, 1, 2, -1, 1, 0, -1), (1, 0, 0, 1, -1, 1, -1)


@pytest.mark.parametrize("adapters", [*ADAPTERS])
@pytest.mark.parametrize("prior", [Normal(), Pooled()], ids=["normal", "pooled"])
def test_each_row_has_the_sum_of_its_levels_weights(
    tiny_pair: tuple[Path, str], prior: Prior, adapters: str
) -> None:
    """As each row alone with its weights merged; rows without a level are the population's."""
    program = Program(*tiny_pair, prior=prior, adapters=ADAPTERS[adapters])
    together = program.logits({USER: USERS, ITEM: ITEMS})
    moved = (together - program.logits({})).nan_to_num().abs().amax(1) > 1e-6
    assert moved.tolist() == [max(own) >= 0 for own in zip(USERS, ITEMS, strict=True)]
    population = program.change("population")
    for i, (user, item) in enumerate(zip(USERS, ITEMS, strict=True)):
        own = [program.change(n, p) for n, p in ((USER, user), (ITEM, item)) if p >= 0]
        alone = program.row(i, added(population, *own), of_options=population)
        _check_row(together[i], alone)


def _check_row(together: Tensor, alone: Tensor) -> None:
    """Compare a row of a batch with the row alone, which has no more than its own options."""
    torch.testing.assert_close(together[: len(alone)], alone, atol=1e-9, rtol=0)
    assert bool((together[len(alone) :] == -torch.inf).all())


@pytest.mark.parametrize("attributes", [(USER,), (USER, ITEM)], ids=["one", "two"])
def test_average_takes_the_mean_of_all_views_weights(
    tiny_pair: tuple[Path, str], attributes: tuple[str, ...]
) -> None:
    """Each attribute has a coarse view, the population, and a fine one, its level."""
    program = Program(*tiny_pair, fusion=Fusion.AVERAGE)
    levels = {name: [i % len(NAMES[name]) for i in range(7)] for name in attributes}
    together = program.logits(levels)
    half = times(0.5, program.change("population"))
    for i in range(7):
        own = [program.change(name, rows[i]) for name, rows in levels.items()]
        fine = times(0.5 / len(attributes), added(*own))
        _check_row(together[i], program.row(i, added(half, fine), of_options=half))


@pytest.mark.parametrize("attributes", [(USER,), (USER, ITEM)], ids=["one", "two"])
def test_predictions_averages_the_views_probabilities(
    tiny_pair: tuple[Path, str], attributes: tuple[str, ...]
) -> None:
    """A level's view sees the options with pretrained weights, where they have a pass of theirs."""
    program = Program(*tiny_pair, fusion=Fusion.PREDICTIONS)
    levels = {name: [i % len(NAMES[name]) for i in range(7)] for name in attributes}
    together = program.logits(levels)
    coarse = program.change("population")
    for i in range(7):
        views = [program.row(i, coarse, of_options=coarse)] * len(attributes)
        for name, rows in levels.items():
            nothing = times(0.0, coarse)
            views.append(program.row(i, program.change(name, rows[i]), of_options=nothing))
        _check_row(together[i], torch.stack(views).softmax(-1).mean(0).log())


@pytest.mark.parametrize("fusion", [*Fusion])
def test_without_levels_the_population_predicts(
    tiny_pair: tuple[Path, str], fusion: Fusion
) -> None:
    program = Program(*tiny_pair, fusion=fusion)
    population = program.change("population")
    together = program.logits({})
    for i in range(7):
        _check_row(together[i], program.row(i, population, of_options=population))


@pytest.mark.parametrize("fusion", [*Fusion])
def test_folded_draws_of_levels_equal_one_draw_at_a_time(
    tiny_pair: tuple[Path, str], fusion: Fusion
) -> None:
    """Whatever the chunks; a chunk's rows have views of the same attributes."""
    program = Program(*tiny_pair, fusion=fusion, draws=2)
    own = zip(USERS, ITEMS, strict=True)
    rows = [replace(row, levels=levels) for row, levels in zip(program.rows, own, strict=True)]
    for tokens in (60, 10**6):
        together = predict(
            program.model,
            program.values,
            rows,
            levels=program.coordinates,
            keep_draws=True,
            tokens_per_pass=tokens,
        ).per_draw
        assert together is not None
        for i, of_draw in enumerate(together):
            alone = _one_by_one(program, rows, i)
            np.testing.assert_allclose(of_draw, alone[:, : of_draw.shape[1]], atol=1e-9)


def _one_by_one(program: Program, rows: Sequence[Row], draw: int) -> np.ndarray:
    """Probabilities of each row alone under one draw, zero where it has no option."""
    values, levels = (
        {name: value[draw : draw + 1] for name, value in all_of.items()}
        for all_of in (program.values, program.coordinates)
    )
    found = np.zeros((len(rows), 4))
    for own, row in zip(found, rows, strict=True):
        (probabilities,) = predict(program.model, values, [row], levels=levels).probabilities
        own[: len(probabilities)] = probabilities
    return found


# What a level's weights do to the logits.


@pytest.fixture
def linear() -> LevelProblem:
    return LevelProblem(40, 5, WordTokenizer(), options=7)


def test_derivatives_are_the_closed_form(linear: LevelProblem) -> None:
    found = linearise(linear.model, POPULATION, linear.data(), directions=False, most_options=None)
    assert torch.equal(found.labels, linear.labels)
    torch.testing.assert_close(found.offsets, linear.offsets, atol=1e-12, rtol=0)
    contrasts = linear.design - linear.design[:, :1]  # a constant is nothing to the softmax
    torch.testing.assert_close(found.features[BY_USER], contrasts, atol=1e-12, rtol=0)


def test_the_likeliest_options_are_kept_and_the_label_first(linear: LevelProblem) -> None:
    found = linearise(linear.model, POPULATION, linear.data(), directions=False, most_options=4)
    assert not found.labels.any()
    for i, label in enumerate(linear.labels.tolist()):
        others = [o for o in linear.offsets[i].argsort(descending=True).tolist() if o != label]
        kept = [label, *others[:3]]
        torch.testing.assert_close(found.offsets[i], linear.offsets[i, kept], atol=1e-12, rtol=0)
        contrasts = linear.design[i, kept] - linear.design[i, label]
        torch.testing.assert_close(found.features[BY_USER][i], contrasts, atol=1e-12, rtol=0)


def test_derivatives_are_those_of_all_rows_moved_alike(tiny_pair: tuple[Path, str]) -> None:
    """Of both attributes, on random transformers, at a population that is no pretrained one."""
    program = Program(*tiny_pair, prior=Pooled())
    data = LabelledRows(program.rows, [0] * 7)
    found = linearise(program.model, program.values, data, most_options=None)
    zeros = tuple(torch.zeros(e.width).double() for e in program.model.by_level.values())
    torch.testing.assert_close(found.offsets, _moved_alike(program, *zeros), atol=1e-9, rtol=0)
    jacobians = torch.autograd.functional.jacobian(
        lambda *moved: _contrasts(program, *moved), zeros, vectorize=True
    )
    for own, jacobian in zip(found.features.values(), jacobians, strict=True):
        torch.testing.assert_close(own, jacobian, atol=1e-9, rtol=0)
        assert own.abs().max() > 1e-3


@pytest.mark.parametrize("scorer", ["class-head", "similarity"])
def test_derivatives_are_finite_differences(tiny_folders: Path, scorer: str) -> None:
    program = Program(tiny_folders / "tiny-encoder", scorer, prior=Pooled())
    data = LabelledRows(program.rows, [0] * 7)
    found = linearise(program.model, program.values, data, most_options=None)
    torch.manual_seed(0)
    step = [1e-5 * torch.randn(e.width).double() for e in program.model.by_level.values()]
    difference = _contrasts(program, *step) - _contrasts(program, *[-own for own in step])
    expected = [2 * f @ own for f, own in zip(found.features.values(), step, strict=True)]
    torch.testing.assert_close(difference, torch.stack(expected).sum(0), atol=1e-9, rtol=0)


def _moved_alike(program: Program, *moved: Tensor) -> Tensor:
    """Logits with one and the same move of every row's weights."""
    batch = program.model.scorer.collate(program.backbone, program.rows)
    everybody = torch.zeros(7, dtype=torch.long)
    levels = {name: LevelRows(own[None], everybody) for name, own in zip(NAMES, moved, strict=True)}
    return program.model.logits(batch, program.values, levels=levels)


def _contrasts(program: Program, *moved: Tensor) -> Tensor:
    logits = _moved_alike(program, *moved)
    return (logits - logits[:, :1]).masked_fill(logits == -torch.inf, 0.0)


def _fitted(problem: LevelProblem) -> tuple[LevelEffect, Tensor, Tensor]:
    """Fit the levels; the effect, and the levels' means and scales."""
    guide = problem.guide()
    fit_levels(problem.model, guide, problem.data(), seed=0)
    table = guide.by_level[BY_USER]
    everyone = torch.arange(len(table.loc))
    return problem.model.by_level[BY_USER], table.loc, table.scale(everyone)


def test_directions_are_the_leading_eigenvectors_of_the_information() -> None:
    problem = LevelProblem(200, 4, WordTokenizer(), spread=1.5)
    effect, _, _ = _fitted(problem)
    probabilities = problem.offsets.softmax(-1)
    curvature = torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None]
    information = torch.einsum("now,nop,npv->wv", problem.design, curvature, problem.design) / 200
    values, vectors = torch.linalg.eigh(information)
    count = effect.width
    # Once more for every known level: it is of logits that are further apart.
    wanted = values.flip(0)[:count] * (1 + effect.attenuation)
    torch.testing.assert_close(effect.information, wanted, atol=1e-8, rtol=1e-6)
    overlap = (vectors.flip(1)[:, :count] * effect.directions).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap), atol=1e-6, rtol=0)


def test_tau_is_what_a_level_adds_to_a_logit_in_nats() -> None:
    """Root mean square over rows and options of levels drawn from the prior with tau 1."""
    problem = LevelProblem(200, 20, WordTokenizer())
    effect, _, _ = _fitted(problem)
    effect.tau.fill_(1.0)
    added = problem.design @ (effect.directions * effect.scale()) * problem.model.factor([BY_USER])
    centred = added - added.mean(1, keepdim=True)
    assert float(centred.square().sum(2).mean()) == pytest.approx(1.0, rel=1e-5)


def test_levels_are_found_where_they_truly_are() -> None:
    """All through: linearised, directed, fitted; fresh rows of the users are predicted better."""
    problem = LevelProblem(800, 20, WordTokenizer(), spread=1.5)
    effect, loc, scale = _fitted(problem)
    truth = problem.logits_at(problem.truth)
    there = truth - truth.mean(1, keepdim=True) - problem.offsets
    there = there + problem.offsets.mean(1, keepdim=True)
    assert effect.interval[0] < there.square().mean().sqrt() < effect.interval[1]
    fresh = LevelProblem(800, 20, WordTokenizer(), spread=1.5, seed=0)
    labels = torch.multinomial(
        fresh.logits_at(problem.truth).softmax(-1), 1, generator=torch.Generator().manual_seed(9)
    )[:, 0].numpy()
    found = problem.logits_at(loc @ effect.directions.T).softmax(-1).numpy()
    alone, best = problem.offsets.softmax(-1).numpy(), truth.softmax(-1).numpy()
    gained = nll(alone, labels) - nll(found, labels)
    assert gained > 0.8 * (nll(alone, labels) - nll(best, labels))
    assert bool((scale < effect.scale()).all())


# Draws of levels, known and unknown.


def with_levels(examples: Sequence[Example], *levels: Mapping[str, str]) -> list[Example]:
    """Give examples levels, in turns."""
    return [replace(e, attributes=levels[i % len(levels)]) for i, e in enumerate(examples)]


KNOWN = [{"user": f"user {i % 4}", "item": f"item {i % 3}"} for i in range(12)]
UNKNOWN = {"user": "nobody", "item": ""}


@pytest.fixture(scope="module")
def posterior(tiny_folders: Path) -> Posterior:
    """A mean-field posterior with levels that are far apart and not known well."""
    task = replace(TASK, examples=tuple(with_levels(TASK.examples, *KNOWN)))
    settings = FitSettings(max_steps=3, batch_size=8, draws=4)
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    fitted = fit([task], backbone, settings=settings, attributes=("user", "item"))
    for log_scale in fitted.guide.log_scale.parameters():
        log_scale.data.fill_(-6.0)  # the population is known
    torch.manual_seed(0)
    for name, effect in fitted.model.by_level.items():
        effect.tau.fill_(0.8)
        table = fitted.guide.by_level[name]
        table.loc = effect.scale() * torch.randn_like(table.loc)
        table.scales = (0.3 * effect.scale()).expand_as(table.loc).clone()
    return fitted


def _draws(
    posterior: Posterior, examples: Sequence[Example], number: int, seed: int = 0
) -> dict[tuple[str, str], Tensor]:
    """Draws of the levels of some examples, by effect and name, ``[draws, width]``."""
    found = find_levels(posterior.model, examples, Unknown.PRIOR)
    tables = draw_levels(posterior.guide, posterior.model, found, number, seed)
    return {
        (effect, name): tables[effect][:, place]
        for effect, names in found.names.items()
        for place, name in enumerate(names)
    }


def test_draws_of_a_level_depend_on_no_other_level(posterior: Posterior) -> None:
    examples = with_levels(EXAMPLES, *KNOWN, UNKNOWN)
    everything = _draws(posterior, examples, 5)
    assert len(everything) == 4 + 1 + 3 + 1
    for some in (examples[::-1], examples[3:5], examples[12:13]):
        for key, value in _draws(posterior, some, 5).items():
            assert torch.equal(value, everything[key])
    apart = [everything[USER, name] for name in ("user 0", "user 1", "nobody")]
    assert not any(torch.equal(apart[i], apart[i - 1]) for i in range(3))


def test_more_draws_of_levels_extend_fewer(posterior: Posterior) -> None:
    examples = with_levels(EXAMPLES, *KNOWN, UNKNOWN)
    many, other = _draws(posterior, examples, 6), _draws(posterior, examples, 6, seed=1)
    for key, value in _draws(posterior, examples, 2).items():
        assert torch.equal(value, many[key][:2])
        assert not torch.equal(value, other[key][:2])


def test_draws_of_levels_have_the_moments_of_posterior_and_prior(posterior: Posterior) -> None:
    drawn = _draws(posterior, with_levels(EXAMPLES, *KNOWN, UNKNOWN), 4000)
    for (name, level), values in drawn.items():
        effect, table = posterior.model.by_level[name], posterior.guide.by_level[name]
        loc, scale = torch.zeros(effect.width), effect.scale()
        if level in effect.levels.index:
            place = torch.tensor(effect.levels.index[level])
            loc, scale = table.loc[place], table.scale(place)
        assert ((values.mean(0) - loc) / (scale / 4000**0.5)).abs().max() < 4.5
        torch.testing.assert_close(values.std(0), scale, rtol=0.06, atol=0)


def test_pairs_of_draws_are_nearer_the_average_than_as_many_independent_ones(
    posterior: Posterior,
) -> None:
    """The noise of a few draws must not cost a level with few rows more than is known of it."""
    examples = with_levels(EXAMPLES, *KNOWN[:3])
    per_draw = posterior.predict(examples, draws=500, keep_draws=True).per_draw
    assert per_draw is not None
    truth = per_draw.mean(0)
    pairs = per_draw[:80].reshape(8, 10, *truth.shape).mean(1)
    independent = per_draw[80:240:2].reshape(8, 10, *truth.shape).mean(1)
    assert np.square(pairs - truth).mean() < 0.3 * np.square(independent - truth).mean()


def test_an_unknown_level_is_less_certain_than_a_known_one(posterior: Posterior) -> None:
    def spread(levels: Mapping[str, str], unknown: str = "prior") -> float:
        examples = with_levels(EXAMPLES, levels)
        per_draw = posterior.predict(examples, draws=64, keep_draws=True, unknown=unknown).per_draw
        assert per_draw is not None
        return float(per_draw[..., 0].var(0).mean())

    population = spread(UNKNOWN, "population")
    known = np.mean([spread(KNOWN[i]) for i in range(4)])
    assert max(population, known) < spread({**KNOWN[0], "user": "nobody"}) < spread(UNKNOWN)


def test_population_predicts_as_a_model_without_attributes(posterior: Posterior) -> None:
    (shared, *_) = posterior.config.effects
    config = replace(posterior.config, effects=(shared,), levels={})
    model, guide = config.build(posterior.model.backbone)
    state = posterior.guide.state_dict().items()
    guide.load_state_dict({n: v for n, v in state if not n.startswith("level_guides")})
    expected = Posterior(model, guide, config).predict(EXAMPLES, draws=3).probabilities
    for levels in ({}, UNKNOWN, {"user": "nan", "item": "none"}):
        examples = with_levels(EXAMPLES, levels)
        found = posterior.predict(examples, draws=3, unknown="population").probabilities
        np.testing.assert_allclose(found, expected, atol=1e-6)
    mean = Posterior(model, guide, config).predict(EXAMPLES, draws=0).probabilities
    found = posterior.predict(with_levels(EXAMPLES, UNKNOWN), draws=0).probabilities
    np.testing.assert_allclose(found, mean, atol=1e-6)


def test_average_predicts_with_the_mean_of_the_known_levels(posterior: Posterior) -> None:
    levels = {n: t.loc.mean(0).expand(3, 1, -1) for n, t in posterior.guide.by_level.items()}
    rows = posterior.config.scorer.rows(posterior.model.backbone, EXAMPLES)
    rows = [replace(row, levels=(0, 0)) for row in rows]
    expected = predict(posterior.model, posterior.draw(3), rows, levels=levels).probabilities
    examples = with_levels(EXAMPLES, UNKNOWN)
    found = posterior.predict(examples, draws=3, unknown="average").probabilities
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_known_level_predicts_alike_whatever_unknown_ones_do(posterior: Posterior) -> None:
    examples = with_levels(EXAMPLES, *KNOWN[:3], UNKNOWN)
    expected = posterior.predict(examples, draws=3).probabilities
    average = posterior.predict(examples, draws=3, unknown="average").probabilities
    same = np.abs(average - expected).max(1) < 1e-6
    assert same.tolist() == [i % 4 < 3 for i in range(len(examples))]


def test_an_unknown_level_has_the_population_s_probabilities_and_more_to_learn(
    posterior: Posterior,
) -> None:
    """Also where the other attribute's level is known: there, that level's."""
    examples = with_levels(EXAMPLES, {**KNOWN[0], "user": "nobody"}, UNKNOWN)
    population, found = (
        posterior.predict(examples, draws=8, unknown=unknown, keep_draws=True)
        for unknown in ("population", "prior")
    )
    np.testing.assert_array_equal(found.probabilities, population.probabilities)
    assert found.per_draw is not None
    np.testing.assert_allclose(found.per_draw.mean(0), found.probabilities, atol=2e-6)
    assert found.mutual_information.mean() > 1.5 * population.mutual_information.mean()
    np.testing.assert_allclose(
        found.mutual_information,
        found.predictive_entropy - entropy(found.per_draw).mean(0),
        atol=1e-12,
    )


def test_the_population_is_fitted_as_without_attributes(posterior: Posterior) -> None:
    settings = FitSettings(max_steps=3, batch_size=8, draws=4)
    backbone = load_backbone(posterior.model.backbone.name)
    alone = fit([TASK], backbone, settings=settings)
    for name, value in alone.guide.mean().items():
        assert torch.equal(value, posterior.guide.mean()[name])


# How points of levels are fitted.


def _effect(prior: Prior, counts: tuple[int, ...]) -> LevelEffect:
    groups = LevelProblem(4, 2, WordTokenizer()).backbone.groups
    names = tuple(f"user {i}" for i in range(len(counts)))
    effect = Effect(BY_USER, FullUpdate(), prior, by="user")
    return LevelEffect(effect, groups, Levels("user", names, counts), {}).double()


def _pass(table: LevelPoints, present: Tensor, gradient: Tensor) -> None:
    """A pass whose loss has this gradient with respect to the levels that are there."""
    (table.sample("levels", present) * gradient[present]).sum().backward()


def test_a_table_that_every_step_touches_moves_as_torchs_adam() -> None:
    table = LevelPoints(_effect(Flat(), (1,) * 5)).double()
    parameter = torch.nn.Parameter(torch.zeros(5, WIDTH).double())
    optimizer = torch.optim.Adam([parameter])
    torch.manual_seed(0)
    for learning_rate in np.linspace(0.1, 0.01, 20):
        gradient = torch.randn(5, WIDTH).double()
        _pass(table, torch.randperm(5), gradient)
        parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        table.step(learning_rate)
        torch.testing.assert_close(table.loc, parameter.detach(), atol=1e-12, rtol=0)


def test_levels_that_are_not_there_do_not_move_and_nor_do_their_moments() -> None:
    """As an Adam for each level, that steps where the level is in one of two passes or in both."""
    table = LevelPoints(_effect(Flat(), (1,) * 6)).double()
    alone = [torch.nn.Parameter(torch.zeros(WIDTH).double()) for _ in range(6)]
    optimizers = [torch.optim.Adam([own], lr=0.05) for own in alone]
    torch.manual_seed(0)
    for _ in range(40):
        total = torch.zeros(6, WIDTH).double()
        seen: set[int] = set()
        for _ in range(2):
            present = torch.randperm(6)[: int(torch.randint(1, 4, ()))]
            gradient = torch.randn(6, WIDTH).double()
            _pass(table, present, gradient)
            total[present] += gradient[present]
            seen |= set(present.tolist())
        for level in seen:
            alone[level].grad = total[level]
            optimizers[level].step()
        table.step(0.05)
        torch.testing.assert_close(table.loc, torch.stack([*alone]).detach(), atol=1e-12, rtol=0)


def test_looking_at_levels_does_not_move_them() -> None:
    table = LevelPoints(_effect(Flat(), (1,) * 4)).double()
    with torch.no_grad():
        table.sample("levels", torch.arange(4))
    table.step(0.1)
    _pass(table, torch.tensor([1]), torch.ones(4, WIDTH).double())
    table.step(0.1)
    table.step(0.1)  # the same gradient is not used twice
    assert table.loc[1].allclose(torch.tensor(-0.1).double(), atol=1e-6)
    assert not table.loc[[0, 2, 3]].any()


@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_every_levels_prior_counts_once_an_epoch(size: int) -> None:
    """As a shared prior does: its weight is 1, mean over the batches, absent levels counted."""
    counts = (5, 3, 1, 1)
    levels = torch.repeat_interleave(torch.tensor([0, 1, 2, 3, -1]), torch.tensor([*counts, 2]))
    effect, total = _effect(Normal(), counts), torch.zeros(4).double()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for rows in order.split(size):
        batch = effect.batch(levels[rows], num_rows=12)
        total[batch.present] += batch.weights * size / 12
        there = levels[rows] >= 0
        assert torch.equal(batch.present[batch.rows[there]], levels[rows][there])
        assert bool((batch.rows[~there] == -1).all())
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


def test_every_levels_prior_has_weight_one_in_expectation() -> None:
    counts = (7, 2, 1)
    levels, total = torch.repeat_interleave(torch.arange(3), torch.tensor(counts)), torch.zeros(3)
    effect, generator = _effect(Normal(), counts), torch.Generator().manual_seed(0)
    for _ in range(2000):
        rows = torch.randperm(10, generator=generator)[:3]
        batch = effect.batch(levels[rows], num_rows=10)
        total[batch.present] += batch.weights / 2000
    # The third's weight is 10 / 3 or 0, with a standard deviation of 1.53.
    torch.testing.assert_close(total, torch.ones(3), atol=4 * 1.53 / 2000**0.5, rtol=0)


# The loss of points.


def _loss(program: Program, extra: Mapping[str, Tensor]) -> tuple[float, float]:
    """The loss of all rows with their levels, as trained, and its labels' and priors' part."""
    model = program.model
    guide = PointGuide(model).double()
    for name, value in program.values.items():
        guide.loc[name.replace(".", "/")].data.copy_(value[0])
    for name, value in program.coordinates.items():
        guide.by_level[name].loc.copy_(value[0])
    batch = {**model.scorer.collate(program.backbone, program.rows), **extra}
    module = SVIModule(model, guide, 1, levels=True)
    loss = module(LABELS, torch.tensor([USERS, ITEMS]), **batch)["loss"]
    log_prior = 0.0
    for name, site in model.sites.items():
        prior = torch.distributions.Normal(site.start.double(), site.unit)
        log_prior += float(prior.log_prob(program.values[name][0]).sum())
    for name, rows in ((USER, USERS), (ITEM, ITEMS)):
        for level, count in enumerate(COUNTS[name]):
            share = rows.count(level) * (model.num_rows / 7) / count
            prior = torch.distributions.Normal(0.0, model.by_level[name].units)
            log_prior += share * float(prior.log_prob(program.coordinates[name][0, level]).sum())
    log_labels = _log_labels(program.logits({USER: USERS, ITEM: ITEMS}))
    return loss.item(), -model.kl_weight * log_prior / model.num_rows - log_labels


LABELS = torch.arange(7) % 2


def _log_labels(logits: Tensor) -> float:
    """Mean log-probability of the labels."""
    return float(logits.log_softmax(-1)[torch.arange(7), LABELS].mean())


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_loss_weighs_each_levels_prior_by_its_rows(
    tiny_pair: tuple[Path, str], weight: float
) -> None:
    program = Program(*tiny_pair)
    program.model.kl_weight = weight
    loss, expected = _loss(program, {})
    assert loss == pytest.approx(expected, rel=1e-6)


def test_distillation_adds_the_populations_likelihood_and_divergence(
    tiny_pair: tuple[Path, str],
) -> None:
    program = Program(*tiny_pair)
    program.model.terms = Terms(distillation=True)
    loss, expected = _loss(program, {})
    full, coarse = program.logits({USER: USERS, ITEM: ITEMS}), program.logits({})
    expected -= _log_labels(coarse)
    for one, other in zip(full.softmax(-1), coarse.softmax(-1), strict=True):
        own = one > 0
        expected += float((one[own] * (one[own] / other[own]).log()).sum()) / 7
    assert loss == pytest.approx(expected, rel=1e-6)


def test_reconstruction_adds_each_rows_tokens_under_its_own_weights(tiny_folders: Path) -> None:
    """A decoder's next tokens, by the model's own head on merged weights."""
    program = Program(tiny_folders / "tiny-decoder", "class-head")
    program.model.terms = Terms(reconstruction=0.7)
    loss, expected = _loss(
        program, hidden_tokens(program.backbone, program.rows, torch.Generator())
    )
    for i, row in enumerate(program.rows):
        levels = [(name, rows[i]) for name, rows in ((USER, USERS), (ITEM, ITEMS)) if rows[i] >= 0]
        own = [program.change(name, level) for name, level in levels]
        ids = torch.tensor([row.ids])
        with torch.no_grad(), merged(program.backbone, added(program.change("population"), *own)):
            assert program.backbone.language_model is not None
            logits = program.backbone.language_model(input_ids=ids).logits[0, :-1]
        expected += 0.7 * float(F.cross_entropy(logits, ids[0, 1:])) / 7
    assert loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("fusion", [*Fusion])
@pytest.mark.parametrize("guide", ["map", "mle"])
def test_rows_of_fewer_options_leave_the_fit_finite(
    tiny_folders: Path, fusion: Fusion, guide: str
) -> None:
    """Where a row has no such option, every view has minus infinity."""
    task = make_choices(12)
    task = replace(task, examples=tuple(with_levels(task.examples, *KNOWN)))
    views = AttributeSettings(("user", "item"), fusion=fusion, terms=Terms(distillation=True))
    fitted = fit(
        [task],
        load_backbone(str(tiny_folders / "tiny-encoder")),
        guide=guide,
        settings=FitSettings(max_steps=2, batch_size=6),
        attributes=views,
    )
    assert all(bool(v.isfinite().all()) for v in fitted.guide.state_dict().values())
    assert all(bool(table.loc.any(1).all()) for table in fitted.guide.by_level.values())


# Separation: the population alone, for rows whose levels are unknown.


@pytest.mark.parametrize("fusion", [*Fusion])
def test_the_separated_population_predicts_rows_without_any_known_level(
    tiny_folders: Path, fusion: Fusion
) -> None:
    task = replace(TASK, examples=tuple(with_levels(TASK.examples, *KNOWN)))
    settings = FitSettings(max_steps=4, batch_size=8, learning_rate=0.02)
    joint, separated = (
        fit(
            [task],
            load_backbone(str(tiny_folders / "tiny-encoder")),
            guide="mle",
            settings=settings,
            attributes=AttributeSettings(("user", "item"), fusion=fusion, separation=steps),
        )
        for steps in (0, 4)
    )
    assert separated.coarse is not None
    for name, value in joint.guide.state_dict().items():
        assert torch.equal(value, separated.guide.state_dict()[name])
    half = {**KNOWN[0], "item": "never seen"}
    examples = with_levels(EXAMPLES, KNOWN[1], half, UNKNOWN)
    before, after = (p.predict(examples).probabilities for p in (joint, separated))
    rows = separated.config.scorer.rows(separated.model.backbone, EXAMPLES)
    coarse = {name: value[None] for name, value in separated.coarse.mean().items()}
    alone = predict(separated.model, coarse, rows).probabilities
    unknown = np.arange(len(examples)) % 3 == 2
    np.testing.assert_allclose(after[~unknown], before[~unknown], atol=1e-6)
    np.testing.assert_allclose(after[unknown], alone[unknown], atol=1e-6)
    assert np.abs(before - alone)[unknown].min() > 1e-5, "the separation stage moved nothing"


def test_a_fit_warns_of_what_cannot_be_learned(tiny_folders: Path) -> None:
    single = [{"visit": f"visit {i}"} for i in range(len(TASK.examples))]
    task = replace(TASK, examples=tuple(with_levels(TASK.examples, *single)))
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    with pytest.warns(DataWarning, match="'visit': every level has one row"):
        fit([task], backbone, settings=FitSettings(max_steps=1), attributes=("visit",))


def test_no_examples_are_refused(posterior: Posterior) -> None:
    with pytest.raises(ConfigError, match="at least one example"):
        posterior.predict([])


# End to end.

GRADES = ("awful", "poor", "fair", "good", "superb")
STARS = ("one star", "two stars", "three stars", "four stars", "five stars")
NUM_USERS, GENEROUS = 12, 4  # of whom the last give one star more


def _review(user: int, grade: int, label: int | None, article: str = "the") -> Example:
    return Example(
        input=f"{article} {GRADES[grade]} film",
        options=STARS,
        label=label,
        attributes={"user": f"user {user:02}"},
        where=f"user {user} of a {GRADES[grade]} film",
    )


def _odds(user: int, grade: int) -> np.ndarray:
    """Each number of stars' probability: one more or less than is due in 15 of 100 reviews."""
    due = grade + (user >= NUM_USERS - GENEROUS)
    odds = np.zeros(5)
    for stars, probability in ((due, 0.85), (due - 1, 0.075), (due + 1, 0.075)):
        odds[np.clip(stars, 0, 4)] += probability
    return odds


def _reviews(rows: int) -> Task:
    """Reviews whose words say how many stars are due, in most cases."""
    generator = np.random.default_rng(0)
    examples = []
    for row in range(rows):
        user, grade = row % NUM_USERS, int(generator.integers(5))
        label = int(generator.choice(5, p=_odds(user, grade)))
        examples.append(_review(user, grade, label, generator.choice(["a", "this", "the"])))
    return Task("reviews", tuple(examples))


def _shuffled(fitted: Posterior, train: Task) -> Posterior:
    """The same population, with levels fitted to users that say nothing of a row."""
    model, guide = fitted.config.build(fitted.model.backbone)
    state = fitted.guide.state_dict().items()
    shared = {name: value for name, value in state if not name.startswith("level_guides")}
    guide.load_state_dict(guide.state_dict() | shared)
    users = np.random.default_rng(0).permutation(len(train)) % NUM_USERS
    rows = model.scorer.rows(model.backbone, train.examples)
    rows = [replace(row, levels=(int(user),)) for row, user in zip(rows, users, strict=True)]
    fit_levels(model, guide, LabelledRows(rows, train.labels), seed=0)
    return Posterior(model, guide, fitted.config)


def test_users_that_differ_are_predicted_better_and_those_that_do_not_no_worse() -> None:
    """Against the same population without attributes, by the NLL expected of a new review."""
    train = _reviews(240)
    settings = FitSettings(max_steps=50, learning_rate=4e-3)
    fitted = fit([train], load_backbone("minilm"), settings=settings, attributes="user")
    cases = [(user, grade) for user in range(NUM_USERS) for grade in range(5)]
    known = [_review(*case, None) for case in cases]
    nobody = [replace(example, attributes={}) for example in known]
    odds = np.array([_odds(*case) for case in cases]).reshape(NUM_USERS, 5, 5)

    def expected(posterior: Posterior, examples: Sequence[Example]) -> np.ndarray:
        """Of a new review of each user."""
        found = posterior.predict(examples, draws=8, unknown="population").probabilities
        return -(odds * np.log(found.reshape(odds.shape))).sum(2).mean(1)

    own, alone = expected(fitted, known), expected(fitted, nobody)
    noisy = expected(_shuffled(fitted, train), known)
    generous = slice(NUM_USERS - GENEROUS, None)
    assert own[generous].mean() < 0.85 * alone[generous].mean()
    assert own.mean() < 0.95 * alone.mean()
    assert noisy.mean() < 1.02 * alone.mean()
