"""Parameters are counted as a fit has them, and ranks are matched as nearly as can be."""

from dataclasses import replace

import pytest
from test_conformance import ADAPTERS, TASK

from bayes_lora import FitSettings, fit
from bayes_lora.adapters import MASA, HydraLoRA, KronA, LoRA, MultiLoRA
from bayes_lora.backbone import Backbone
from bayes_lora.budget import matched, parameters
from bayes_lora.errors import ConfigError


@pytest.mark.parametrize("name", [*ADAPTERS])
def test_parameters_are_those_of_a_fit(name: str, minilm: Backbone) -> None:
    adapter = ADAPTERS[name]
    settings = FitSettings(max_steps=0)
    posterior = fit([TASK], minilm, adapter=adapter, guide="mean-field", settings=settings)
    sites = [site for site in posterior.model.sites.values() if site.key]
    assert parameters(adapter, minilm) == sum(site.start.numel() for site in sites)


def test_loras_parameters_on_minilm(minilm: Backbone) -> None:
    """Query and value of six layers of 384 features."""
    assert parameters(LoRA(rank=8), minilm) == 2 * 6 * 8 * (384 + 384)


@pytest.mark.parametrize(
    "adapter", [MASA(number=2, group=2), MASA(number=4, group=3), HydraLoRA(), MultiLoRA(number=2)]
)
@pytest.mark.parametrize("rank", [4, 8, 32])
def test_no_other_rank_is_nearer(adapter: LoRA, rank: int, minilm: Backbone) -> None:
    target = parameters(LoRA(rank=rank), minilm)
    found = matched(adapter, LoRA(rank=rank), minilm)
    distance = abs(parameters(found, minilm) - target)
    for other in (found.rank - 1, found.rank + 1):
        if other:
            assert abs(parameters(replace(found, rank=other), minilm) - target) >= distance


def test_what_cannot_be_matched_is_refused(minilm: Backbone) -> None:
    with pytest.raises(ConfigError, match="has no rank"):
        matched(KronA(), LoRA(), minilm)
    with pytest.raises(ConfigError, match="at the lowest rank"):
        matched(HydraLoRA(experts=64), LoRA(rank=1), minilm)
