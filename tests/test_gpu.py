"""What must hold on a CUDA device; the conformance suite runs on one too, where there is one."""

import numpy as np
import pytest
import torch
from test_conformance import EXAMPLES, SETTINGS, TASK

from bayes_lora import Posterior, fit, load_backbone

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: NOT run"),
]


@pytest.mark.parametrize("guide", ["mean-field", "mle"])
def test_a_fit_on_the_gpu_predicts_the_same_on_the_cpu(guide: str, tmp_path) -> None:
    posterior = fit([TASK], load_backbone("minilm"), guide=guide, settings=SETTINGS)
    assert posterior.model.backbone.device.type == "cuda"
    posterior.save_pretrained(tmp_path / "run")
    on_gpu = posterior.predict(EXAMPLES, draws=0).probabilities
    on_cpu = Posterior.from_pretrained(tmp_path / "run", device="cpu").predict(EXAMPLES, draws=0)
    np.testing.assert_allclose(on_gpu, on_cpu.probabilities, atol=1e-3)
