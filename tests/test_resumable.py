"""What a kept state is good for, and whose it is; conformance resumes every guide."""

from itertools import count
from pathlib import Path

import pytest
import torch

from bayes_lora import FitSettings, Posterior, Task, fit, load_backbone
from bayes_lora.data import Example
from bayes_lora.errors import RunFolderError, UnsupportedError
from bayes_lora.guides import NUTS, DeepEnsemble, Family
from bayes_lora.inference.resumable import OWNER_FILE, newest_checkpoint
from bayes_lora.inference.svi import SVITrainer

OPTIONS = ("bad", "good")
LOSSES = (0.5, 0.4, 0.6, 0.7, 0.8)  # of dev rows: the second evaluation is the best


def task(name: str = "films") -> Task:
    words = ("dull", "bright")
    rows = [(f"{words[label]} {name} number {i}", label) for i in range(6) for label in (0, 1)]
    examples = (
        Example(input=text, options=OPTIONS, label=label, where=f"row {i}")
        for i, (text, label) in enumerate(rows)
    )
    return Task(name, tuple(examples))


def fitted(
    model: Path, folder: Path | None, guide: str | Family = "mle", *, dev: bool = False
) -> Posterior:
    return fit(
        [task()],
        load_backbone(str(model)),
        guide=guide,
        dev=[task("dev")] if dev else (),
        settings=FitSettings(max_steps=60, batch_size=8),
        resumable=folder,
    )


@pytest.fixture
def model(tiny_folders: Path) -> Path:
    return tiny_folders / "tiny-encoder"


def test_early_stopping_goes_on_waiting(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def judge(trainer: SVITrainer) -> float:
        asked.append(trainer.state.global_step)
        if next(calls) == failing:
            raise KeyboardInterrupt
        return LOSSES[trainer.state.global_step // 10 - 1]

    monkeypatch.setattr(SVITrainer, "dev_nll", judge)
    calls, failing = count(), -1
    whole = fitted(model, None, dev=True)
    assert asked == [10, 20, 30, 40, 50]  # patience of 3
    calls, failing = count(), 3
    with pytest.raises(KeyboardInterrupt):
        fitted(model, tmp_path, dev=True)
    asked.clear()
    resumed = fitted(model, tmp_path, dev=True)
    assert asked == [40, 50]
    for site, value in whole.guide.mean().items():
        assert torch.equal(resumed.guide.mean()[site], value)
    asked.clear()
    again = fitted(model, tmp_path, dev=True)
    assert not asked, "a finished fit was gone through again"
    for site, value in whole.guide.mean().items():
        assert torch.equal(again.guide.mean()[site], value)


def test_a_checkpoint_that_was_not_written_to_its_end_is_none(tmp_path: Path) -> None:
    for step in (90, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}/trainer_state.json").touch()
    (tmp_path / "checkpoint-110").mkdir()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    assert newest_checkpoint(tmp_path / "checkpoint-110") is None


def test_a_folder_of_something_else_is_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(RunFolderError, match=r"not empty, and holds no fit's state"):
        fitted(model, tmp_path)
    (tmp_path / OWNER_FILE).write_text('{"broken":')
    with pytest.raises(RunFolderError, match=r"fit\.json cannot be read"):
        fitted(model, tmp_path)


def test_other_rows_are_another_fit(model: Path, tmp_path: Path) -> None:
    fitted(model, tmp_path)
    with pytest.raises(RunFolderError, match=r"another fit, which differs in: rows\."):
        fitted(model, tmp_path, dev=True)


@pytest.mark.parametrize(("guide", "dev"), [(NUTS(4, 4), False), (DeepEnsemble(2), True)])
def test_what_cannot_be_resumed_says_so_before_the_work(
    model: Path, tmp_path: Path, guide: Family, dev: bool
) -> None:
    with pytest.raises(UnsupportedError, match=r"cannot be resumed"):
        fitted(model, tmp_path, guide, dev=dev)
