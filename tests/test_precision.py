"""A dtype that is slow on a machine is told there, and nowhere else."""

import warnings

import pytest
import torch

from bayes_lora import load_backbone
from bayes_lora.backbone import precision
from bayes_lora.errors import SpeedWarning


def test_a_slow_dtype_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    with pytest.warns(SpeedWarning, match="bfloat16.* leave dtype at float32"):
        load_backbone("minilm", dtype=torch.bfloat16)


@pytest.mark.parametrize(("dtype", "has"), [(torch.float32, False), (torch.bfloat16, True)])
def test_another_is_not(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, has: bool) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: has)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_backbone("minilm", dtype=dtype).dtype == dtype
