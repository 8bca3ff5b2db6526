"""What must hold on a CUDA device; the conformance suite runs on one too, where there is one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_conformance import EXAMPLES, SETTINGS, TASK
from test_meta_conformance import NEW, SHORT, TASKS

from bayes_lora import Posterior, fit, load_backbone
from bayes_lora.meta import MetaPosterior, meta_fit

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


@pytest.mark.parametrize("method", ["abmll", "lora"])
def test_many_tasks_on_the_gpu_predict_the_same_on_the_cpu(method: str, tmp_path) -> None:
    settings = replace(SHORT, method=method)
    learned = meta_fit(TASKS, load_backbone("minilm"), dev=[NEW], settings=settings)
    assert learned.backbone.device.type == "cuda"
    posterior = learned.adapt(NEW.examples[:4])
    on_gpu = posterior.predict(NEW.examples, draws=0).probabilities
    learned.save_pretrained(tmp_path / "meta")
    posterior.save_pretrained(tmp_path / "new.safetensors")
    there = MetaPosterior.from_pretrained(tmp_path / "meta", device="cpu")
    on_cpu = there.load_task(tmp_path / "new.safetensors").predict(NEW.examples, draws=0)
    np.testing.assert_allclose(on_gpu, on_cpu.probabilities, atol=1e-3)
