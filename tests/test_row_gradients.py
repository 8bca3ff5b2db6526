"""Derivatives of single rows equal those of a row alone, by torch's own jacobian."""

from pathlib import Path

import pytest
import torch
from test_conformance import make_choices, make_task
from torch import Tensor

from bayes_lora import FitSettings, fit, load_backbone
from bayes_lora.adapters import DoRA, LoRA
from bayes_lora.row_gradients import row_passes

NOT_STARTED = FitSettings(max_steps=0)


@pytest.mark.parametrize("scorer", ["class-head", "similarity"])
@pytest.mark.parametrize("adapter", [LoRA(rank=2), DoRA(rank=2)])
@pytest.mark.parametrize("name", ["tiny-encoder", "tiny-decoder"])
def test_each_rows_derivative(tiny_folders: Path, name: str, scorer: str, adapter: LoRA) -> None:
    backbone = load_backbone(str(tiny_folders / name), dtype=torch.float64)
    tasks = [make_task(9)] + ([make_choices(4)] if scorer == "similarity" else [])
    posterior = fit(tasks, backbone, scorer=scorer, adapter=adapter, settings=NOT_STARTED)
    model = posterior.model.double()
    torch.manual_seed(0)
    values = {
        n: v.double() + 0.1 * torch.randn(v.shape).double()
        for n, v in posterior.guide.mean().items()
    }
    examples = [example for task in tasks for example in task.examples]
    rows = posterior.config.scorer.rows(backbone, examples)
    seen = []
    for part in row_passes(model, values, rows):
        options = part.logits.shape[1]
        for option in range(options):
            one = torch.eye(options)[option].expand(len(part.places), options)
            derivatives = part.derivative(one, last=option == options - 1)
            for place, i in enumerate(part.places):
                expected = _alone(model, values, rows[i], option)
                for site, own in derivatives.items():
                    torch.testing.assert_close(own[place], expected[site], atol=1e-10, rtol=1e-8)
        seen += part.places
    assert sorted(seen) == list(range(len(rows)))


def _alone(model, values: dict[str, Tensor], row, option: int) -> dict[str, Tensor]:
    """Derive one logit of a row by itself; zeros where it has no such option."""
    batch = model.scorer.collate(model.backbone, [row])

    def logit(*given: Tensor) -> Tensor:
        own = {name: value.unsqueeze(0) for name, value in zip(values, given, strict=True)}
        return model.logits(batch, own)[0]

    with torch.no_grad():
        count = len(logit(*values.values()))
    if option >= count:
        return {name: torch.zeros_like(value) for name, value in values.items()}
    found = torch.autograd.functional.jacobian(
        lambda *given: logit(*given)[option], tuple(values.values())
    )
    return dict(zip(values, found, strict=True))
