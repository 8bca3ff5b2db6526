"""Training-free noise: the same point, isotropic noise, and as much as the tolerance allows."""

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from test_conformance import EXAMPLES, TASK
from test_peft_models import START, TUNERS, moved
from tiny_backbones import tiny_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bayes_lora import FitSettings, Posterior, fit
from bayes_lora.adapters import Adapter, DoRA, KronA, LoRA, LoRAStart, LoRAXS
from bayes_lora.backbone import BayesianAdapter
from bayes_lora.errors import ConfigError
from bayes_lora.guides import HalfGuide, TrainingFree, products, sample
from bayes_lora.inference.fit import labelled_rows
from bayes_lora.inference.training_free import expected_nll, turned, unit_noise
from bayes_lora.model import BayesianModel, parameter_name

TRAINED = FitSettings(max_steps=15, batch_size=20, learning_rate=0.02)
RANK = 3


@pytest.mark.parametrize(("d_out", "rank"), [(16, 3), (3, 5)])
def test_a_turned_product_is_the_same_with_orthogonal_columns(d_out: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(4, d_out, rank, generator=generator)
    A = torch.randn(4, rank, 10, generator=generator)
    turned_B, turned_A, values = turned(B, A)
    torch.testing.assert_close(turned_B @ turned_A, (B @ A).double(), atol=1e-6, rtol=0)
    exact = torch.linalg.svdvals(B.double())
    found = values.sort(descending=True).values[:, : exact.shape[1]]
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=1e-6)
    gram = turned_B.mT @ turned_B
    torch.testing.assert_close(gram, torch.diag_embed(values**2), atol=1e-6, rtol=0)


def _moved(adapter: Adapter) -> tuple[BayesianModel, HalfGuide]:
    """A model in float64, and a guide whose point is nothing's start."""
    posterior = fit([TASK], tiny_encoder(), adapter=adapter, guide="training-free", settings=START)
    guide = posterior.guide.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in guide.loc.values():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    return posterior.model.double(), guide


@pytest.mark.parametrize(
    "adapter",
    [LoRA(rank=RANK), LoRA(rank=RANK, start=LoRAStart.PISSA), DoRA(rank=RANK)],
)
def test_turning_the_point_changes_no_logit(adapter: LoRA) -> None:
    """Also where the update is PiSSA's difference, or DoRA's direction."""
    model, guide = _moved(adapter)
    batch = model.scorer.collate(model.backbone, model.scorer.rows(model.backbone, EXAMPLES))
    before = {name: value.clone() for name, value in guide.mean().items()}
    noise = unit_noise(model, guide)
    after = guide.mean()
    assert {name.rpartition(".")[2] for name in noise} == {"A"}
    assert not torch.allclose(before["population.query.A"], after["population.query.A"], atol=0.01)
    with torch.no_grad():
        logits = [
            model.logits(batch, {name: value.double()[None] for name, value in point.items()})
            for point in (before, after)
        ]
    torch.testing.assert_close(*logits, atol=1e-9, rtol=0)


def test_the_noise_of_an_update_is_isotropic() -> None:
    """In B's column space its covariance is sigma^2 times the identity; elsewhere it is zero."""
    model, guide = _moved(LoRA(rank=RANK))
    noise, sigma = unit_noise(model, guide), 0.02
    with torch.no_grad():
        for name, own in noise.items():
            guide.log_scale[parameter_name(name)].copy_((sigma * own).log())
    drawn = sample(guide, 400, seed=0)
    for up, down in products(model):
        B = guide.mean()[up]
        exact = B @ torch.diag_embed(noise[down][..., 0] ** 2) @ B.mT
        values = torch.linalg.eigvalsh(exact)
        expected = torch.zeros_like(values)
        expected[:, -RANK:] = 1.0
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)
        change = B @ (drawn[down] - guide.mean()[down])  # [draws, layers, d_out, d_in]
        covariance = torch.einsum("slij,slkj->lik", change, change) / (400 * change.shape[-1])
        values = torch.linalg.eigvalsh(covariance) / sigma**2
        torch.testing.assert_close(values, expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("adapter", [LoRAXS(rank=4), KronA()])
def test_other_adapters_have_noise_in_their_units(adapter: Adapter) -> None:
    settings = FitSettings(max_steps=6, learning_rate=0.02)
    posterior = fit(
        [TASK], tiny_encoder(), adapter=adapter, guide="training-free", settings=settings
    )
    sites = posterior.model.sites
    sizes = [value / sites[name].unit for name, value in posterior.guide.stddev().items()]
    sizes = torch.cat([own.flatten() for own in sizes])
    torch.testing.assert_close(sizes, sizes[:1].expand_as(sizes))


def _fit(tolerance: float) -> Posterior:
    family = TrainingFree(tolerance)
    return fit([TASK], tiny_encoder(), adapter=LoRA(rank=RANK), guide=family, settings=TRAINED)


def _size(posterior: Posterior) -> float:
    (up, down), *_ = products(posterior.model)
    values = posterior.guide.mean()[up].norm(dim=1)
    sizes = posterior.guide.stddev()[down] * values.unsqueeze(2)
    torch.testing.assert_close(sizes, sizes[:1, :1, :1].expand_as(sizes))
    return float(sizes.flatten()[0])


def test_the_noise_found_costs_the_tolerance_and_grows_with_it() -> None:
    """Judged by other draws than found it, within the error of the search's eight."""
    sizes = []
    for tolerance in (0.01, 0.1):
        posterior = _fit(tolerance)
        model, rows = posterior.model, labelled_rows(posterior.model, [TASK])
        point = expected_nll(model, posterior.draw(0), rows)
        drawn = posterior.draw(150, seed=7)
        rises = np.array(
            [
                expected_nll(model, {n: v[i : i + 1] for n, v in drawn.items()}, rows) - point
                for i in range(150)
            ]
        )
        error = rises.std() / np.sqrt(8) + rises.std() / np.sqrt(len(rises))
        assert abs(rises.mean() - tolerance) < 3.5 * error + 0.05 * tolerance
        again = expected_nll(model, posterior.draw(8, seed=TRAINED.seed), rows) - point
        assert 0.9 * tolerance < again <= tolerance + 1e-6
        sizes.append(_size(posterior))
    assert sizes[1] > 1.5 * sizes[0]


def test_the_point_is_that_of_maximum_likelihood() -> None:
    plain = fit(
        [TASK], tiny_encoder(), adapter=LoRA(rank=RANK), guide="mle", settings=TRAINED
    ).predict(EXAMPLES, draws=0)
    found = _fit(0.03).predict(EXAMPLES, draws=0)
    np.testing.assert_allclose(found.probabilities, plain.probabilities, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("name", ["lora", "lora-rank-pattern", "dora", "ia3"])
def test_a_checkpoint_of_somebody_elses(name: str, tiny_folders: Path) -> None:
    """PEFT's classifier gets noise, isotropic where it is LoRA's, and stays what it was."""
    folder = tiny_folders / "tiny-encoder"
    torch.manual_seed(5)  # of the base model's new classifier
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    adapted = moved(base, TUNERS[name](), "SEQ_CLS")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    backbone = BayesianAdapter.from_peft(adapted, tokenizer)
    posterior = fit([TASK], backbone, guide="training-free", settings=START)
    point = fit([TASK], backbone, guide="mle", settings=START).predict(EXAMPLES)
    found = posterior.predict(EXAMPLES, draws=0)
    np.testing.assert_allclose(found.probabilities, point.probabilities, atol=1e-5)
    drawn = posterior.predict(EXAMPLES, draws=3, keep_draws=True).per_draw
    assert drawn is not None
    assert drawn.std(0).max() > 1e-5
    random = {site.rpartition(".")[2] for site in posterior.guide.stddev()}
    pairs = products(posterior.model)
    if name == "ia3":
        assert "ia3_l" in random
        assert not pairs
        return
    assert random == {"lora_A"}
    assert len(pairs) == len(posterior.guide.stddev())
    assert _size(posterior) > 1e-4


def test_ada_loras_factors_are_no_product(tiny_folders: Path) -> None:
    """It has a diagonal between them, which must not be turned away."""
    config = peft.AdaLoraConfig(target_modules=["query"], init_r=4, target_r=2, total_step=10)
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_folders / "tiny-encoder", num_labels=2
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders / "tiny-encoder")
    backbone = BayesianAdapter.from_peft(moved(base, config, "SEQ_CLS"), tokenizer)
    posterior = fit([TASK], backbone, guide="mle", settings=START)
    assert any(name.endswith(".lora_A") for name in posterior.model.sites)
    assert not products(posterior.model)


def test_a_tolerance_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="tolerance must be positive"):
        TrainingFree(0.0)
