"""The linearised predictive against dense Jacobians and brute force."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dense_laplace import covariance, jacobian, many_draws, scatter, unfitted
from scipy.linalg import hadamard
from test_conformance import EXAMPLES, TASK, make_choices

from bayes_lora import fit, linearised, load_backbone
from bayes_lora.arguments import make_parser
from bayes_lora.errors import UnsupportedError
from bayes_lora.guides import BLoB, DiagonalLaplace, Family, Guide, Laplace, MeanField
from bayes_lora.inference import FitSettings
from bayes_lora.linearised import MOST_OPTIONS, _covariance, likeliest, predict_linearised
from bayes_lora.row_gradients import row_passes

GUIDES = [MeanField(0.3), Laplace(), Laplace(layers=1), DiagonalLaplace()]


def _scattered(folders: Path, scorer: str, guide: object):
    posterior, rows = unfitted(folders, scorer, guide)
    if isinstance(guide, Laplace):
        scatter(posterior.guide)
    return posterior, rows


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("scorer", ["class-head", "similarity"])
def test_covariance_of_logits_is_the_dense_one(
    tiny_folders: Path, scorer: str, guide: object
) -> None:
    posterior, rows = _scattered(tiny_folders, scorer, guide)
    own = posterior.guide
    spread = {site: covariance(own, site) for site in own.sites}
    for run in row_passes(posterior.model, own.mean(), rows, first=own.first_random):
        found = _covariance(run, own, likeliest(run.logits.detach()))
        for place, i in enumerate(run.places):
            logits, derivatives = jacobian(posterior, rows[i])
            there = logits.isfinite()
            contrasts = {s: (d[there] - d[:1])[1:].flatten(1) for s, d in derivatives.items()}
            expected = sum(d @ spread[s] @ d.T for s, d in contrasts.items())
            kept = len(expected)
            torch.testing.assert_close(found[place, :kept, :kept], expected, rtol=1e-8, atol=1e-10)
            assert not found[place, kept:].any()


def test_a_linear_models_prediction_is_exact(tiny_folders: Path) -> None:
    """With the head alone random, logits are linear: 20,000 draws of weights say the same."""
    posterior, rows = _scattered(tiny_folders, "class-head", Laplace(layers=0))
    model = posterior.model
    draws = many_draws(posterior.guide, 20_000)
    batch = model.scorer.collate(model.backbone, rows)
    values = {name: value.unsqueeze(0) for name, value in posterior.guide.mean().items()}
    with torch.no_grad(), model.under(values):
        pooled = model.scorer.features(model.backbone, batch)["pooled"]
    logits = torch.einsum("skd,bd->sbk", draws["head.weight"], pooled)
    drawn = (logits + draws["head.bias"].unsqueeze(1)).softmax(-1)
    found = predict_linearised(model, posterior.guide, rows, keep_draws=True)
    np.testing.assert_allclose(found.probabilities, drawn.mean(0), atol=0.01)
    entropies = -(drawn * drawn.log()).sum(-1).mean(0)
    np.testing.assert_allclose(found.expected_entropy, entropies, atol=0.01)
    np.testing.assert_allclose(found.per_draw.std(0), drawn.std(0), atol=0.01)
    assert found.num_draws == 256


def test_narrow_posteriors_draws_agree(tiny_folders: Path) -> None:
    posterior, _ = unfitted(tiny_folders, "similarity", MeanField(0.03))
    examples = [*EXAMPLES[:9], *make_choices(4).examples]
    linear = posterior.predict(examples, linearised=True, keep_draws=True)
    drawn = posterior.predict(examples, draws=400, keep_draws=True)
    spread = drawn.per_draw.std(0)
    assert spread.max() > 0.003
    assert (np.abs(linear.probabilities - drawn.probabilities) < 0.2 * spread + 1e-4).all()
    np.testing.assert_allclose(linear.per_draw.std(0), spread, rtol=0.2, atol=1e-4)


@pytest.mark.parametrize("guide", [MeanField(0.3), Laplace()])
def test_rows_do_not_depend_on_batches_or_order(tiny_folders: Path, guide: object) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    tasks = [TASK, make_choices(4)]
    settings = FitSettings(max_steps=3)
    posterior = fit(tasks, backbone, scorer="similarity", guide=guide, settings=settings)
    words = ("red", "warm", "moon", "kind", "dull", "ball", "long", "film")
    many = replace(EXAMPLES[0], options=words, label=0)
    assert len(words) > MOST_OPTIONS
    examples = [*EXAMPLES[:6], *make_choices(4).examples, many]
    expected = posterior.predict(examples, linearised=True, keep_draws=True)
    np.testing.assert_allclose(expected.probabilities.sum(1), 1)
    for tokens in (1, 60):
        parts = posterior.predict(examples, linearised=True, tokens_per_pass=tokens)
        np.testing.assert_allclose(parts.probabilities, expected.probabilities, atol=1e-5)
        np.testing.assert_allclose(parts.expected_entropy, expected.expected_entropy, atol=1e-5)
    backwards = posterior.predict(examples[::-1], linearised=True).probabilities[::-1]
    np.testing.assert_allclose(backwards, expected.probabilities, atol=1e-5)
    few = posterior.predict(examples, linearised=True, draws=9, keep_draws=True)
    np.testing.assert_allclose(few.per_draw, expected.per_draw[:9], atol=1e-9)


@pytest.mark.parametrize(
    ("scorer", "guide", "linear"),
    [
        ("class-head", MeanField(0.3), True),
        ("similarity", MeanField(0.3), False),
        ("class-head", BLoB(0.3), False),
        ("similarity", Laplace(), True),
    ],
)
def test_how_a_posterior_predicts_where_nobody_says(
    tiny_folders: Path, scorer: str, guide: Family, linear: bool
) -> None:
    posterior, _ = _scattered(tiny_folders, scorer, guide)
    assert posterior.linearises is linear
    unsaid = posterior.predict(EXAMPLES)
    said = posterior.predict(EXAMPLES, linearised=linear)
    assert np.array_equal(unsaid.probabilities, said.probabilities)
    assert unsaid.num_draws == (256 if linear else 6)
    drawn = posterior.predict(EXAMPLES, draws=6)
    other = posterior.predict(EXAMPLES, linearised=False)
    assert np.array_equal(drawn.probabilities, other.probabilities)
    assert np.array_equal(drawn.probabilities, unsaid.probabilities) is not linear


def test_levels_are_drawn_where_nobody_says(tiny_folders: Path) -> None:
    posterior, _ = unfitted(tiny_folders, "class-head", MeanField())
    posterior.model.by_level = {"user": None}
    assert not posterior.linearises


def test_a_point_is_predicted_as_it_is(tiny_folders: Path) -> None:
    posterior, _ = unfitted(tiny_folders, "class-head", "map")
    found = posterior.predict(EXAMPLES, linearised=True)
    assert np.array_equal(found.probabilities, posterior.predict(EXAMPLES).probabilities)
    assert posterior.guide.roots({"head.bias": torch.ones(3, 2)}).shape == (3, 0)


def test_what_cannot_be_linearised_says_so(
    tiny_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior, _ = unfitted(tiny_folders, "class-head", MeanField())
    monkeypatch.setattr(type(posterior.guide), "roots", Guide.roots)
    with pytest.raises(UnsupportedError, match="predict with draws"):
        posterior.predict(EXAMPLES, linearised=True)
    posterior.model.by_level = {"user": None}
    with pytest.raises(UnsupportedError, match="with attributes cannot be linearised"):
        posterior.predict(EXAMPLES, linearised=True)


def test_the_command_line_has_the_flag() -> None:
    command = ["predict", "run", "--data", "a.csv", "--out", "b.jsonl"]
    assert make_parser().parse_args([*command, "--linearised"]).linearised
    assert make_parser().parse_args(command).linearised is None


@pytest.mark.parametrize("guide", [MeanField(0.3), Laplace()])
def test_what_options_that_stay_add_to_the_mutual_information(
    tiny_folders: Path, monkeypatch: pytest.MonkeyPatch, guide: object
) -> None:
    """Averaged over signs it is, with what the others have, all of (1/2) tr(F J S J')."""
    posterior, _ = _scattered(tiny_folders, "similarity", guide)
    words = ("red", "warm", "moon", "kind", "dull", "ball", "long", "film")
    examples = [replace(EXAMPLES[0], options=words[:k], label=0) for k in (8, 7, 6)]
    rows = posterior.config.scorer.rows(posterior.model.backbone, examples)
    own = posterior.guide
    spread = {site: covariance(own, site) for site in own.sites}
    signs = torch.tensor(hadamard(len(words), dtype=float))  # their average square is exact
    found = torch.zeros(len(signs), len(rows), dtype=torch.float64)
    for which, some in enumerate(signs):
        monkeypatch.setattr(linearised, "_signs", lambda options, some=some: some[:options])
        for run in row_passes(posterior.model, own.mean(), rows, first=own.first_random):
            found[which, run.places] = linearised.unsettled(
                run, own, likeliest(run.logits.detach())
            )
    for row, average in zip(rows, found.mean(0), strict=True):
        logits, derivatives = jacobian(posterior, row)
        whole = sum(
            (flat := derivatives[site].flatten(1)) @ spread[site] @ flat.T for site in spread
        )
        kept = likeliest(logits[None])[0]
        share = torch.zeros_like(logits).scatter(0, kept, logits[kept].softmax(0))
        p = logits.softmax(0)
        m = torch.eye(len(p)) - share  # of logits less the average of those that vary
        left = p.scatter(0, kept, 0.0)
        expected = ((left.diag() - left.outer(left)) @ m @ whole @ m.T).trace() / 2
        assert float(average) == pytest.approx(float(expected) if len(p) > 6 else 0.0, rel=1e-6)


def test_many_options_have_more_mutual_information_and_the_same_probabilities(
    tiny_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior, _ = _scattered(tiny_folders, "similarity", MeanField(0.3))
    words = ("red", "warm", "moon", "kind", "dull", "ball", "long", "film")
    examples = [replace(EXAMPLES[0], options=words, label=0)]
    found = posterior.predict(examples, linearised=True)
    monkeypatch.setattr(linearised, "MANY_OPTIONS", 9)
    without = posterior.predict(examples, linearised=True)
    np.testing.assert_array_equal(found.probabilities, without.probabilities)
    assert found.mutual_information[0] > 1.05 * without.mutual_information[0]
    monkeypatch.setattr(
        linearised, "unsettled", lambda run, guide, kept: run.logits.new_full((len(kept),), 99.0)
    )
    assert posterior.predict(examples, linearised=True).expected_entropy[0] == 0
