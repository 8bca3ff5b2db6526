"""The hierarchy over tasks against algebra: intervals of theta, adapted posteriors, gradients."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from linear_gaussian import NOISE, GaussianScorer
from linear_tasks import KEY, SITE, Algebra, Array, LinearTasks, ManyTasks, hierarchy_of, learn
from tiny_backbones import tiny_encoder
from torch import Tensor

from bayes_lora import LoRA, load_backbone
from bayes_lora.adapters import Adapter
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example
from bayes_lora.inference.training_state import training
from bayes_lora.meta import MetaPosterior, MetaSettings
from bayes_lora.meta.amortization import Amortization, TaskPosteriors
from bayes_lora.meta.config import MetaConfig
from bayes_lora.meta.encoder import Encoder
from bayes_lora.meta.episodes import EpisodeRows
from bayes_lora.meta.gradient import Gradient
from bayes_lora.meta.hierarchy import Hierarchy
from bayes_lora.meta.module import MetaModule
from bayes_lora.meta.published import LoRAOutputs, PublishedABMLL, PublishedSteps
from bayes_lora.meta.theta import MeanFieldTheta, PointTheta, Theta, adapter_sites
from bayes_lora.predict import predict
from bayes_lora.scorers import LabelledRows, Row, Scorer, Similarity
from calibration import ece

TAU = 0.8
# Enough steps for the optimum, and enough draws for little noise around it.
EXACT = {"learning_rate": 0.05, "scale_learning_rate": 0.05, "draws": 16}


def coverage(mean: Array, spread: Array, truth: Array) -> float:
    return float((np.abs(mean - truth) < 1.96 * spread).mean())


def test_intervals_of_theta_cover_it() -> None:
    """1,000 means and 1,000 scales, each learned from 200 tasks; 0.7 % is the binomial error.

    The adapted posteriors are algebra here; the next test's are the project's own.
    """
    tasks = ManyTasks(tasks=200, layers=1000, width=1, seed=0)
    mu, spread, log_tau, tau_spread = learn(tasks, Algebra(tasks), steps=300, burn_in=80)
    exact = tasks.theta()
    covered = coverage(mu, spread, tasks.mu), coverage(log_tau, tau_spread, tasks.log_tau)
    print(f"coverage of mu and log tau: {covered[0]:.3f}, {covered[1]:.3f}")
    assert min(covered) > 0.93
    assert max(covered) < 0.97
    for value, width, (centre, wanted) in (
        (mu, spread, exact[:2]),
        (log_tau, tau_spread, exact[2:]),
    ):
        error = (value - centre) / wanted
        assert abs(error.mean()) < 0.05
        assert error.std() < 0.15, "more than the noise of the last steps"
        assert np.median(width / wanted) == pytest.approx(1, abs=0.04)


def test_theta_of_2000_tasks_is_drawn_to_its_exact_posterior() -> None:
    """With steps on each task's ELBO, as meta-fitting takes them: from 4 standard deviations off
    on either side, the loss's gradient says to go back these 4 and no more or less, so that the
    optimum of q(theta) and its width are the exact posterior's."""
    tasks = ManyTasks(tasks=2000, layers=6, width=1, seed=2)
    above, below = (newton_steps(tasks, offset) for offset in (4.0, -4.0))
    centre, curvature = (above + below) / 2, (below - above) / 8
    print("centre and curvature of mu and log tau:", centre.mean(1), curvature.mean(1))
    assert np.abs(centre.mean(1)).max() < 0.6
    np.testing.assert_allclose(curvature.mean(1), 1, atol=0.2)


def newton_steps(tasks: ManyTasks, offset: float, repeats: int = 10) -> Array:
    """Mean step to the optimum from ``offset`` deviations off, in these, ``[2, layers]``."""
    theta = PointTheta(adapter_sites(tasks.hierarchy.model), 1.0)
    amortization = Gradient(
        train_steps=80, learning_rate=0.1, scale_learning_rate=0.05, draws=2, initial_scale=0.4
    )
    module = MetaModule(tasks.hierarchy, theta, amortization)
    mu, spread, log_tau, tau_spread = tasks.theta()
    with torch.no_grad():
        theta.loc[KEY].copy_(torch.tensor(mu + offset * spread))
        theta.log_scale_loc[KEY].copy_(torch.tensor(log_tau + offset * tau_spread))
    torch.manual_seed(0)
    with pyro.validation_enabled(False):
        for _ in range(repeats):
            (module(tasks.episodes)["loss"] * len(tasks.episodes) / repeats).backward()
    gradients = theta.loc[KEY].grad.numpy(), theta.log_scale_loc[KEY].grad.numpy()
    return np.stack([-gradients[0] * spread, -gradients[1] * tau_spread]).squeeze(-1)


def theta_at(mean: Array, scale: float) -> Theta:
    mu = torch.tensor(mean).view(1, 2, 3)
    return Theta({SITE: mu}, {SITE: torch.full((1, 1, 1), scale, dtype=mu.dtype)})


def ragged(tasks: LinearTasks, sizes: Sequence[int]) -> tuple[Theta, Array, list[LabelledRows]]:
    rng = np.random.default_rng(5)
    mean = rng.normal(size=6)
    drawn = [tasks.draw(mean + TAU * rng.normal(size=6), size, rng) for size in sizes]
    return theta_at(mean, TAU), mean, drawn


def arrays(posteriors: TaskPosteriors) -> tuple[Array, Array]:
    """Means and standard deviations, ``[tasks, 6]``."""
    loc, scale = posteriors.loc[SITE], posteriors.scale[SITE]
    return loc.detach().flatten(1).numpy(), scale.detach().flatten(1).numpy()


@pytest.mark.parametrize("orthogonal", [True, False])
def test_adapted_posteriors_are_the_exact_ones_given_theta(orthogonal: bool) -> None:
    """Side by side, however many rows each task has; one has none and keeps its prior."""
    tasks = LinearTasks(orthogonal=orthogonal)
    theta, mean, supports = ragged(tasks, (1, 0, 40, 5, 17))
    torch.manual_seed(0)
    found = arrays(Gradient(steps=400, **EXACT).eval()(tasks.hierarchy(5), theta, supports))
    for loc, scale, support in zip(*found, supports, strict=True):
        exact, spread = tasks.posterior(support, mean, TAU) if len(support) else (mean, TAU)
        assert np.abs((loc - exact) / spread).max() < 0.15
        np.testing.assert_allclose(scale, spread, rtol=0.05)


def test_tasks_side_by_side_take_the_steps_that_each_takes_alone() -> None:
    """With next to no noise from draws: the paths are compared, and not only their ends."""
    tasks = LinearTasks(orthogonal=False)
    theta, _, supports = ragged(tasks, (1, 12, 0, 5))
    still = Gradient(
        steps=7, learning_rate=0.03, scale_learning_rate=0.0, initial_scale=1e-9
    ).eval()
    together, _ = arrays(still(tasks.hierarchy(4), theta, supports))
    for i, support in enumerate(supports):
        alone, _ = arrays(still(tasks.hierarchy(4), theta, [support]))
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-6)


def test_a_posterior_leaves_the_prior_at_the_exact_rate() -> None:
    """n rows that say 2 where the prior says 0: n tau^2 / (n tau^2 + sigma^2) of the way."""
    tasks = LinearTasks(orthogonal=True)
    sizes = np.array([1, 4, 16, 64, 256])
    token = next(i for i in range(1, 98) if tasks.design(tasks.rows([i]))[0, 0] == 1)
    supports = []
    for size in sizes:
        rows = tasks.rows([token] * size)
        supports.append(LabelledRows(rows, (tasks.offset(rows) + 2).tolist()))
    torch.manual_seed(0)
    # The first gradients of a scale that is far too wide are hundreds of times the last, and Adam
    # remembers them: many rows need large steps.
    settings = EXACT | {"scale_learning_rate": 0.2}
    amortization = Gradient(steps=600, **settings).eval()
    loc, scale = arrays(amortization(tasks.hierarchy(5), theta_at(np.zeros(6), TAU), supports))
    share = sizes * TAU**2 / (sizes * TAU**2 + NOISE**2)
    np.testing.assert_allclose(loc[:, 0] / 2, share, atol=0.01)
    np.testing.assert_allclose((scale[:, 0] / TAU) ** 2, 1 - share, rtol=0.1)
    assert np.abs(loc[:, 1:]).max() < 0.15 * TAU, "a weight that no row has to do with moved"


def test_without_support_the_posterior_is_the_prior_predictive() -> None:
    """Draw theta, then a task's weights: their moments are Normal(mu, tau^2 + Var(mu))."""
    tasks = LinearTasks(orthogonal=True)
    hierarchy = tasks.hierarchy(2)
    guide = MeanFieldTheta(adapter_sites(hierarchy.model), 0.4).double()
    with torch.no_grad():
        guide.loc[KEY].copy_(torch.arange(6.0).view(1, 2, 3))
        guide.loc_log_scale[KEY].copy_(torch.linspace(0.05, 0.5, 6).log().view(1, 2, 3))
        guide.log_scale_log_scale[KEY].fill_(1e-6).log_()  # tau is known
        thetas = [guide() for _ in range(4000)]
        drawn = [theta.mean[SITE] + theta.scale[SITE] * torch.randn(1, 2, 3) for theta in thetas]
        simulated = torch.stack(drawn).flatten(1).numpy()
    exact = np.sqrt(0.4**2 + np.linspace(0.05, 0.5, 6) ** 2)
    posteriors = Gradient()(hierarchy, guide.predictive(), [LabelledRows(), LabelledRows()])
    for loc, scale in zip(*arrays(posteriors), strict=True):
        np.testing.assert_allclose(loc, np.arange(6.0), atol=1e-6)
        np.testing.assert_allclose(scale, exact, rtol=1e-6)
    assert (np.abs(simulated.mean(0) - np.arange(6.0)) < 4 * exact / np.sqrt(4000)).all()
    np.testing.assert_allclose(simulated.std(0), exact, rtol=0.05)


def test_the_gradient_in_mu_is_that_of_the_queries_at_the_adapted_weights() -> None:
    """In closed form, after steps on supports of several sizes, as the KL's weight goes to zero."""
    tasks = LinearTasks(orthogonal=False)
    rng, sizes = np.random.default_rng(6), np.array([2, 9, 4])
    hierarchy = tasks.hierarchy(3, kl_weight=1e-9)
    theta = PointTheta(adapter_sites(hierarchy.model), 0.3).double()
    episodes = [
        EpisodeRows("", *(tasks.draw(rng.normal(size=6), n, rng) for n in (size, 7)))
        for size in sizes
    ]
    amortization = Gradient(
        train_steps=5, learning_rate=0.05, scale_learning_rate=0.0, initial_scale=1e-9
    )
    module = MetaModule(hierarchy, theta, amortization)
    module([*episodes])["loss"].backward()
    adapted, _ = arrays(amortization(hierarchy, theta(), [e.support for e in episodes]))
    assert np.abs(adapted).min() > 0.01, "no step was taken"
    expected = np.zeros(6)
    for size, weights, episode in zip(sizes, adapted, episodes, strict=True):
        rows, design = episode.query.rows, tasks.design(episode.query.rows)
        residual = np.array(episode.query.labels) - tasks.offset(rows) - design @ weights
        # Seven queries stand for as many rows as the support has.
        expected -= size / 7 * design.T @ residual / NOISE**2 / sizes.sum()
    np.testing.assert_allclose(theta.loc[KEY].grad.flatten().numpy(), expected, rtol=1e-4)


def encoder_hierarchy(adapter: Adapter, scorer: Scorer) -> Hierarchy:
    return hierarchy_of(tiny_encoder(), adapter, scorer, num_tasks=2).double()


def gradient_in_theta(module: MetaModule, episodes: Sequence[EpisodeRows]) -> Tensor:
    module.zero_grad()
    with training(module.hierarchy.model.backbone):
        torch.manual_seed(0)
        module(episodes)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in module.theta.loc.values()])


def word_episodes(scorer: Scorer, backbone: Backbone) -> list[EpisodeRows]:
    rows = scorer.rows(backbone, word_examples(16))
    labelled = [LabelledRows(rows[i : i + 4], [0, 1, 0, 1]) for i in range(0, 16, 4)]
    return [EpisodeRows("", labelled[0], labelled[1]), EpisodeRows("", labelled[2], labelled[3])]


def relabelled(episode: EpisodeRows) -> EpisodeRows:
    support, query = episode.support, episode.query
    return EpisodeRows(
        "",
        LabelledRows(support.rows, [1 - label for label in support.labels]),
        LabelledRows(query.rows, [1 - label for label in query.labels]),
    )


@pytest.mark.parametrize("published", [False, True])
def test_labels_reach_theta_and_as_published_they_do_not(published: bool) -> None:
    """Adapted weights are held where they start. As published, other labels change nothing."""
    hierarchy = encoder_hierarchy(LoRAOutputs(2) if published else LoRA(2), Similarity("mean"))
    theta = PointTheta(hierarchy.sites, 0.1).double()
    module: MetaModule
    if published:
        module = PublishedABMLL(hierarchy, theta, PublishedSteps(1, 1, learning_rate=0.0))
    else:
        module = MetaModule(hierarchy, theta, Gradient(train_steps=0))
    episodes = word_episodes(hierarchy.model.scorer, hierarchy.model.backbone)
    one = gradient_in_theta(module, episodes)
    other = gradient_in_theta(module, [relabelled(episode) for episode in episodes])
    assert one.abs().max() > 0
    changed = float((one - other).norm() / one.norm())
    assert changed == 0 if published else changed > 0.1


def test_as_published_theta_rests_where_adapted_outputs_are_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However wrong these are. Its loss is a sample: without its noise, nothing pulls the means."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    hierarchy = encoder_hierarchy(LoRAOutputs(2), Similarity("mean"))
    theta = PointTheta(hierarchy.sites, 0.1).double()
    module = PublishedABMLL(hierarchy, theta, PublishedSteps(1, 1, learning_rate=0.0))
    gradient_in_theta(module, word_episodes(hierarchy.model.scorer, hierarchy.model.backbone))
    for name, parameter in theta.loc.items():
        if name.endswith(("/A", "/B")):
            assert not parameter.grad.any(), name


class Logistic(GaussianScorer):
    """Two options; the projection of the pooled state is the log-odds of the second."""

    def logits(self, backbone, batch, head, shared=None):
        odds = super().logits(backbone, batch, head, shared)
        return torch.cat([torch.zeros_like(odds), odds], -1)

    def label_distribution(self, logits):
        return torch.distributions.Categorical(logits=logits)


def test_a_model_that_is_right_is_calibrated() -> None:
    """Tasks drawn from the model, adapted to 12 examples, 60,000 queries. Draws are what does it:
    the posterior mean, over the same queries, is too sure."""
    tasks = LinearTasks(orthogonal=True, scorer=Logistic)
    rng, scale = np.random.default_rng(7), 2.0
    mean = 0.5 * rng.normal(size=6)
    made = [draw_labels(tasks, mean + scale * rng.normal(size=6), rng) for _ in range(1000)]
    hierarchy = tasks.hierarchy(len(made))
    amortization = Gradient(steps=150, learning_rate=0.15, scale_learning_rate=0.05, draws=4)
    torch.manual_seed(0)
    with torch.no_grad():
        supports = [support for support, _ in made]
        posteriors = amortization.eval()(hierarchy, theta_at(mean, scale), supports)
        drawn = posteriors.sample(hierarchy, 50)[SITE].squeeze(2)  # [draws, tasks, 1, 2, 3]
    labels = np.concatenate([query.labels for _, query in made])
    averaged, plugged = (
        np.concatenate(
            [
                predict(hierarchy.model, {SITE: values[:, i]}, query.rows).probabilities
                for i, (_, query) in enumerate(made)
            ]
        )
        for values in (drawn, posteriors.loc[SITE].unsqueeze(0))
    )
    print(f"ECE {ece(averaged, labels):.4f}; of the mean {ece(plugged, labels):.4f}")
    assert len(labels) == 60_000
    assert ece(averaged, labels) < 0.01
    assert ece(plugged, labels) > 0.02


def draw_labels(
    tasks: LinearTasks, weights: Array, rng: np.random.Generator
) -> tuple[LabelledRows, LabelledRows]:
    """A support set of 12 and 60 queries."""
    rows = tasks.rows(rng.integers(1, 98, 72))
    odds = tasks.offset(rows) + tasks.design(rows) @ weights
    labels = (rng.random(len(rows)) < 1 / (1 + np.exp(-odds))).astype(int).tolist()
    return LabelledRows(rows[:12], labels[:12]), LabelledRows(rows[12:], labels[12:])


WORDS = ("bright", "warm", "kind", "lovely", "sharp"), ("dull", "cold", "mean", "awful", "slow")


def word_examples(count: int, seed: int = 1) -> list[Example]:
    rng = np.random.default_rng(seed)
    examples = []
    for row in range(count):
        words = rng.choice(WORDS[row % 2], 1 + int(rng.integers(4)))
        text = "the film was " + " and ".join(words)
        examples.append(Example(input=text, options=("good", "bad"), label=row % 2, where=""))
    return examples


def test_draws_differ_and_less_so_the_more_support_there_was(tiny_folders: Path) -> None:
    """Variance over draws of a query's probability, at prediction on a real backbone."""
    backbone = load_backbone(
        str(tiny_folders / "tiny-encoder"), targets=["layer.1.attention.self.value"]
    )
    settings = MetaSettings(
        tau=1.0, steps=60, learning_rate=0.1, scale_learning_rate=0.1, kl_weight=1.0
    )
    # Random embeddings lie close together: the scale makes labels say something about weights.
    scorer = Similarity("mean", scale=500.0)
    config = MetaConfig(scorer, LoRA(rank=1), settings, ("task",), (), ())
    posterior = MetaPosterior(config.build(backbone), config)
    support, queries, variances, odds = word_examples(64), word_examples(30, seed=2), [], []
    for size in (0, 4, 16, 64):
        task = posterior.adapt(support[:size])
        per_draw = task.predict(queries, draws=32, keep_draws=True).per_draw
        variances.append(per_draw.var(0).mean())
        odds.append(np.log(per_draw[..., 1] / per_draw[..., 0]).var(0).mean())
    print("variance over draws:", np.round(variances, 4), np.round(odds, 2))
    assert min(variances) > 1e-3
    assert (np.diff(variances) < 0).all()
    assert (np.diff(odds) < 0).all()


@pytest.fixture(scope="module")
def encoding() -> tuple[Hierarchy, Encoder, Theta]:
    """An encoder that is not at its start, where every support has the same posterior."""
    hierarchy = encoder_hierarchy(LoRA(2), Similarity("mean"))
    theta = PointTheta(hierarchy.sites, 0.1).double()
    encoder = Encoder(hierarchy.model, theta.predictive().scale).double()
    torch.manual_seed(0)
    with torch.no_grad():
        torch.nn.init.normal_(encoder.of_set[-1].weight)
    return hierarchy, encoder, theta.predictive()


def encode(
    encoding: tuple[Hierarchy, Amortization, Theta], supports: Sequence[LabelledRows]
) -> list[dict[str, Tensor]]:
    hierarchy, encoder, theta = encoding
    with torch.no_grad():
        posteriors = encoder(hierarchy, theta, supports)
    return [
        posteriors.only(i).loc | {f"{n} scale": v for n, v in posteriors.only(i).scale.items()}
        for i in range(len(supports))
    ]


def some_support(encoding, count: int, options: int, seed: int) -> LabelledRows:
    hierarchy, labels = encoding[0], ("good", "bad", "so so", "odd", "far too long a label")
    examples = [
        replace(example, options=labels[:options]) for example in word_examples(count, seed)
    ]
    rows: list[Row] = hierarchy.model.scorer.rows(hierarchy.model.backbone, examples)
    return LabelledRows(rows, [i % options for i in range(count)])


def test_the_encoder_does_not_see_the_order_of_rows(encoding) -> None:
    support = some_support(encoding, 9, 3, seed=1)
    order = np.random.default_rng(0).permutation(9)
    shuffled = LabelledRows([support.rows[i] for i in order], [support.labels[i] for i in order])
    other = LabelledRows(support.rows, support.labels[::-1])
    one, same, not_same = encode(encoding, [support, shuffled, other])
    for name, value in one.items():
        torch.testing.assert_close(same[name], value, rtol=1e-9, atol=1e-12)
        if not name.endswith("scale"):
            assert not torch.allclose(not_same[name], value, rtol=1e-3)


def test_the_encoder_takes_any_number_of_options_and_rows(encoding) -> None:
    """Side by side as each alone; options that nobody answered, in any order, do not matter."""
    supports = [some_support(encoding, n, k, seed=n) for n, k in ((1, 2), (7, 5), (3, 3), (0, 2))]
    for together, support in zip(encode(encoding, supports), supports, strict=True):
        (alone,) = encode(encoding, [support])
        for name, value in together.items():
            torch.testing.assert_close(value, alone[name], rtol=1e-9, atol=1e-12)
    rows = [Row(row.ids, (row.options[label],)) for row, label in supports[1]]
    (bare,), (full,) = (
        encode(encoding, [support]) for support in (LabelledRows(rows, [0] * 7), supports[1])
    )
    for name, value in full.items():
        torch.testing.assert_close(bare[name], value, rtol=1e-9, atol=1e-12)
