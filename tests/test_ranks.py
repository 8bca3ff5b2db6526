"""A learned rank is the rank of the update that made the data; pruning changes next to nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from linear_tasks import VectorScorer
from test_conformance import EXAMPLES, TASK
from tiny_backbones import WordTokenizer
from torch import Tensor, nn

from bayes_lora import FitSettings, LearnedNormal, Normal, Posterior, fit, load_backbone
from bayes_lora.adapters import DoRA, KronA, LoRA, RankedLoRA
from bayes_lora.backbone import Backbone
from bayes_lora.effects import Effect
from bayes_lora.errors import ConfigError, UnsupportedError
from bayes_lora.guides import MeanField
from bayes_lora.inference.svi import fit_svi
from bayes_lora.ranks import effective_ranks, prune
from bayes_lora.run_config import PosteriorConfig
from bayes_lora.scorers import LabelledRows, Row

D_IN, D_OUT, ROWS, NOISE, MOST = 12, 10, 400, 0.3, 6


class Linear(nn.Module):
    """An embedding and a linear layer, with the interface of a transformers model."""

    config = SimpleNamespace(hidden_size=D_OUT, model_type="bert")

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(99, D_IN)
        self.lin = nn.Linear(D_IN, D_OUT)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.lin(self.embed(input_ids)))


def fitted(rank: int) -> tuple[Posterior, list[Row]]:
    """Fit a rank of at most 6 to outputs that an update of this rank made."""
    torch.manual_seed(rank)
    backbone = Backbone(Linear(), WordTokenizer(), name="", fingerprint="", targets=["lin"])
    update = torch.randn(D_OUT, rank) @ torch.randn(rank, D_IN) * D_IN**-0.5
    rows = [Row((1 + i % 97,)) for i in range(ROWS)]
    with torch.no_grad():
        inputs = backbone.model.embed.weight[[row.ids[0] for row in rows]]
        table = backbone.model.lin(inputs) + inputs @ update.T + NOISE * torch.randn(ROWS, D_OUT)
    config = PosteriorConfig(
        scorer=VectorScorer(table, torch.full((ROWS,), NOISE)),
        guide=MeanField(),
        effects=(
            Effect(
                "population",
                RankedLoRA(rank=MOST),
                priors={"A": Normal(1.0), "B": LearnedNormal(1.0, by_column=True)},
            ),
        ),
        head_prior=Normal(),
        label_sets=(),
        num_rows=ROWS,
        kl_weight=1.0,
        seed=0,
        fit={},
    )
    model, guide = config.build(backbone)
    settings = FitSettings(
        max_steps=1500, batch_size=64, learning_rate=0.02, scale_learning_rate=0.02
    )
    fit_svi(model, guide, LabelledRows(rows, list(range(ROWS))), settings)
    return Posterior(model, guide, config), rows


@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_of_the_truth_is_found(rank: int) -> None:
    posterior, rows = fitted(rank)
    (layer,) = effective_ranks(posterior)
    assert layer.layer == "lin"
    assert layer.effective == rank
    assert layer.values[rank - 1] > 3 * layer.noise > 3 * layer.values[rank]
    pruned = prune(posterior)
    (smaller,) = effective_ranks(pruned)
    assert smaller.values == pytest.approx(layer.values[:rank], rel=1e-4)
    assert pruned.model.sites["population.lin.A"].shape == (1, rank, D_IN)
    batch = posterior.model.scorer.collate(posterior.model.backbone, rows)
    with torch.no_grad():
        before, after = (own.model.logits(batch, own.draw(0)) for own in (posterior, pruned))
        start = posterior.model.logits(batch, {n: 0 * v for n, v in posterior.draw(0).items()})
    moved, changed = (start - before).pow(2).mean().sqrt(), (after - before).pow(2).mean().sqrt()
    assert changed < 0.02 * moved


def test_a_pruned_run_is_saved_and_loaded(tiny_folders, tmp_path) -> None:
    settings = FitSettings(max_steps=6, batch_size=8, learning_rate=0.05, seed=1)
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    adapter = RankedLoRA(rank=4, alpha=6.0)
    posterior = fit([TASK], backbone, adapter=adapter, settings=settings)
    assert {layer.layer for layer in effective_ranks(posterior)} == {
        name for group in backbone.groups for name in group.layers
    }
    pruned = prune(posterior)
    (effect,) = pruned.config.effects
    assert effect.adapter.rank <= 4
    assert effect.adapter.scale == adapter.scale
    pruned.save_pretrained(tmp_path / "run")
    loaded = Posterior.from_pretrained(tmp_path / "run")
    before, after = (own.predict(EXAMPLES, draws=2).probabilities for own in (pruned, loaded))
    assert np.array_equal(before, after)


def test_what_has_no_learned_rank_is_refused(tiny_folders) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    plain = fit([TASK], backbone, adapter=LoRA(rank=2), settings=FitSettings(max_steps=0))
    assert {layer.effective for layer in effective_ranks(plain)} == {0}
    for adapter, guide in ((KronA(), "mean-field"), (DoRA(), "mean-field"), (LoRA(), "map")):
        other = fit(
            [TASK], backbone, adapter=adapter, guide=guide, settings=FitSettings(max_steps=0)
        )
        with pytest.raises(UnsupportedError, match="A rank is counted of one LoRA"):
            prune(other)
    with pytest.raises(ConfigError, match="their optimum is zero"):
        fit([TASK], backbone, adapter=RankedLoRA(), guide="map")
