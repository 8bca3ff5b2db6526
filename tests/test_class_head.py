"""The class head's prior."""

import math

import pytest
import torch
from tiny_backbones import tiny_encoder

from bayes_lora import FitSettings, Task, fit
from bayes_lora.data import Example


@pytest.mark.parametrize(
    ("options", "wider"),
    [(2, 1.0), (6, 1 + 4 / 3 * math.log(3)), (150, 1 + 4 / 3 * math.log(75))],
)
def test_the_prior_of_its_weights_is_wider_where_options_are_many(
    options: int, wider: float
) -> None:
    labels = tuple(f"label {number:03d}" for number in range(options))
    rows = (
        Example(input=f"text {n}", options=labels, label=n % options, where=f"row {n}")
        for n in range(2 * options)
    )
    still = FitSettings(max_steps=0)
    model = fit([Task("many", tuple(rows))], tiny_encoder(), settings=still).model
    width = model.backbone.hidden_size
    weights, bias = (model.prior(f"head.{name}").variance.sqrt() for name in ("weight", "bias"))
    torch.testing.assert_close(weights, torch.full((options, width), 1.5 * wider * width**-0.5))
    torch.testing.assert_close(bias, torch.full((options,), 1.5))
