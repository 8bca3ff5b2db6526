"""What is slow on a machine is told there, or left out, and nowhere else."""

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


@pytest.mark.parametrize("gpu", [False, True])
def test_attention_is_fused_but_where_that_is_slow(
    monkeypatch: pytest.MonkeyPatch, gpu: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert precision.fastest_attention(torch.bfloat16, 256) == (None if gpu else "eager")
    assert precision.fastest_attention(torch.bfloat16, 2048) is None
    assert precision.fastest_attention(torch.float32, 256) is None


def test_attention_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)

    def attention(**named: str) -> str:
        loaded = load_backbone("minilm", dtype=torch.bfloat16, **named)
        return loaded.model.config._attn_implementation

    chosen = precision.fastest_attention(torch.bfloat16, 256)
    assert attention() == (chosen or "sdpa")
    assert attention(attention="sdpa") == "sdpa"
