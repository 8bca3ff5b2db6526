"""Curvature and covariance as whole matrices, for models small enough."""

from pathlib import Path

import pyro
import torch
from test_conformance import make_choices, make_task
from torch import Tensor

from bayes_lora import FitSettings, Posterior, fit, load_backbone
from bayes_lora.adapters import LoRA
from bayes_lora.guides import Guide, KroneckerLaplaceGuide, LaplaceGuide, MeanFieldGuide
from bayes_lora.model import parameter_name
from bayes_lora.scorers import Row


def unfitted(folders: Path, scorer: str, guide: object) -> tuple[Posterior, list[Row]]:
    """Return a float64 posterior around weights that are not where they start, and rows."""
    backbone = load_backbone(str(folders / "tiny-encoder"), dtype=torch.float64)
    tasks = [make_task(9)] + ([make_choices(4)] if scorer == "similarity" else [])
    posterior = fit(
        tasks,
        backbone,
        scorer=scorer,
        adapter=LoRA(rank=2),
        guide=guide,
        settings=FitSettings(max_steps=0),
    )
    posterior.model.double()
    posterior.guide.double()
    generator = torch.Generator().manual_seed(0)
    for name, value in posterior.guide.loc.items():
        unit = posterior.model.sites[name.replace("/", ".")].unit
        value.data += unit * torch.randn(value.shape, generator=generator)
    examples = [example for task in tasks for example in task.examples]
    return posterior, posterior.config.scorer.rows(backbone, examples)


def jacobian(posterior: Posterior, row: Row) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a row's logits ``[K]`` and their derivatives ``[K, *shape]`` by each site."""
    model, values = posterior.model, posterior.guide.mean()
    batch = model.scorer.collate(model.backbone, [row])

    def logits(*given: Tensor) -> Tensor:
        own = {name: value.unsqueeze(0) for name, value in zip(values, given, strict=True)}
        return model.logits(batch, own)[0]

    given = tuple(values.values())
    found = torch.autograd.functional.jacobian(logits, given)
    return logits(*given).detach(), dict(zip(values, found, strict=True))


def information(posterior: Posterior, rows: list[Row], site: str) -> Tensor:
    """Sum ``J^T (diag(p) - p p^T) J`` of one site, ``[D, D]``."""
    total: Tensor | float = 0.0
    for row in rows:
        logits, derivatives = jacobian(posterior, row)
        p, own = logits.softmax(0), derivatives[site].flatten(1)
        total = total + own.T @ (p.diag() - p.outer(p)) @ own
    return total


def covariance(guide: Guide, site: str) -> Tensor:
    """Return the covariance of one site's weights, ``[D, D]``."""
    key = parameter_name(site)
    if isinstance(guide, MeanFieldGuide):
        return guide.log_scale[key].detach().exp().square().flatten().diag()
    assert isinstance(guide, LaplaceGuide)
    size = guide.sites[site].start.numel()
    out = torch.zeros(size, size, dtype=torch.float64)
    if site not in guide.first_random:
        return out
    scale = (
        guide.scale[key].flatten(0, -3) if guide.scale[key].dim() > 2 else guide.scale[key][None]
    )
    width = scale[0].numel()
    for layer, own in enumerate(scale):
        basis = torch.eye(width, dtype=torch.float64)
        if isinstance(guide, KroneckerLaplaceGuide):
            left = guide.left[key].reshape(-1, *guide.left[key].shape[-2:])[layer]
            right = guide.right[key].reshape(-1, *guide.right[key].shape[-2:])[layer]
            basis = torch.kron(left, right)
        end = size - (len(scale) - 1 - layer) * width
        block = basis @ own.flatten().square().diag() @ basis.T
        out[end - width : end, end - width : end] = block
    return out


def many_draws(guide: Guide, number: int) -> dict[str, Tensor]:
    """Draw at once, under a plate, ``[number, *shape]``."""
    with torch.random.fork_rng(), torch.no_grad(), pyro.plate("draws", number):
        torch.manual_seed(0)
        return guide.sample_sites()


def scatter(guide: LaplaceGuide, seed: int = 0) -> None:
    """Give a guide random scales, and random bases where it has some."""
    generator = torch.Generator().manual_seed(seed)
    for key, scale in guide.scale.items():
        scale.copy_(0.1 + 0.2 * torch.rand(scale.shape, generator=generator))
        if isinstance(guide, KroneckerLaplaceGuide):
            for basis in (guide.left[key], guide.right[key]):
                noise = torch.randn(basis.shape, generator=generator, dtype=torch.float64)
                basis.copy_(torch.linalg.qr(noise).Q)
