"""PEFT checkpoints in and out and the command ``ranks``, as a user runs them."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from bayes_lora import Posterior
from bayes_lora.cli import main
from bayes_lora.peft_export import ABOUT, HEAD_FILE, SCALES


@pytest.fixture
def run(tiny_folders: Path, tmp_path: Path) -> Path:
    data = tmp_path / "train.csv"
    rows = ["text,label"] + [f"a {word} film,{word}" for word in ("good", "bad") * 6]
    data.write_text("\n".join(rows) + "\n")
    model = str(tiny_folders / "tiny-encoder")
    out = tmp_path / "run"
    arguments = ["fit", "--data", str(data), "--model", model, "--out", str(out)]
    assert main([*arguments, "--max-steps", "3", "--rank", "2"]) == 0
    return out


def test_a_peft_checkpoint_with_scales_beside_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--peft", str(tmp_path / "out")]) == 0
    assert f"PEFT checkpoint written to {tmp_path / 'out'}" in capsys.readouterr().out
    posterior = Posterior.from_pretrained(run)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    scales = load_file(tmp_path / "out" / SCALES)
    assert scales.keys() == weights.keys()
    key = "base_model.model.encoder.layer.1.attention.self.value.lora_B.weight"
    assert torch.equal(weights[key], posterior.guide.mean()["population.value.B"][1])
    assert torch.equal(scales[key], posterior.guide.stddev()["population.value.B"][1])
    head = load_file(tmp_path / "out" / HEAD_FILE)
    assert torch.equal(head["weight"], posterior.guide.mean()["head.weight"])
    about = json.loads((tmp_path / "out" / ABOUT).read_text())
    assert about == {"guide": "mean-field", "draw": None, "seed": 0, "labels": [["bad", "good"]]}


def test_a_draw_merged_into_a_model(run: Path, tmp_path: Path, tiny_folders: Path) -> None:
    both = {}
    for kind in ("peft", "merged"):
        out = tmp_path / kind
        assert main(["export", str(run), f"--{kind}", str(out), "--draw", "2", "--seed", "7"]) == 0
    base = AutoModel.from_pretrained(tiny_folders / "tiny-encoder")
    both["peft"] = peft.PeftModel.from_pretrained(base, tmp_path / "peft")
    both["merged"] = AutoModel.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        states = [model.eval()(input_ids=ids).last_hidden_state for model in both.values()]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--draw", "-1"], "number -1"),
        (["--model", "nowhere"], "'nowhere' cannot be loaded"),
    ],
)
def test_bad_input(
    run: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--peft", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_stays_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert main(["export", str(run), "--merged", str(full)]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


def test_what_peft_does_not_have_is_refused(
    tiny_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "train.csv"
    data.write_text("text,label\n" + "a,yes\nb,no\n" * 4)
    model = str(tiny_folders / "tiny-encoder")
    arguments = ["--model", model, "--out", str(tmp_path / "run"), "--max-steps", "1"]
    assert main(["fit", "--data", str(data), *arguments, "--adapter", "krona"]) == 0
    assert main(["export", str(tmp_path / "run"), "--peft", str(tmp_path / "out")]) == 2
    assert "merge a draw into the model instead (--merged)" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), "--merged", str(tmp_path / "out")]) == 0


def test_ranks_are_said_and_pruned(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["ranks", str(run), "--prune", str(tmp_path / "pruned")]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 4  # two layers' query and value
    assert all(" of 2 stands out (singular values " in line for line in lines)
    assert last == f"Posterior of rank 1 written to {tmp_path / 'pruned'}"
    assert main(["ranks", str(tmp_path / "pruned")]) == 0
    assert "of 1 stands out" in capsys.readouterr().out
    assert main(["ranks", str(run), "--prune", str(tmp_path / "pruned")]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_a_fit_starts_from_a_peft_checkpoint_and_gives_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a step its mean is the checkpoint; with some it is another, and as good a one."""
    data, theirs = str(tmp_path / "train.csv"), tmp_path / "theirs"
    assert main(["export", str(run), "--peft", str(theirs)]) == 0
    start = load_file(theirs / "adapter_model.safetensors")
    for steps in (0, 2):
        out = [str(tmp_path / f"{kind} {steps}") for kind in ("run", "out")]
        fit = ["fit", "--data", data, "--from-peft", str(theirs), "--out", out[0]]
        assert main([*fit, "--max-steps", str(steps)]) == 0
        assert main(["predict", out[0], "--data", data, "--out", f"{out[0]}.jsonl"]) == 0
        assert main(["export", out[0], "--peft", out[1]]) == 0
        weights = load_file(Path(out[1]) / "adapter_model.safetensors")
        assert weights.keys() == start.keys()
        assert all(torch.equal(weights[key], start[key]) for key in start) == (steps == 0)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ("adapter_model.safetensors", [], "holds no PEFT checkpoint that can be read: there is no"),
        ("adapter_config.json", [], "there is no adapter_config.json"),
        (None, ["--rank", "4"], "--rank does not go with --from-peft"),
        (None, ["--attributes", "user"], "--attributes does not go with --from-peft"),
        (None, ["--model", "nowhere"], "cannot be loaded onto 'nowhere'"),
    ],
)
def test_peft_checkpoints_that_cannot_be_fitted(
    change: str | None,
    more: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, theirs = str(tmp_path / "train.csv"), tmp_path / "theirs"
    assert main(["export", str(run), "--peft", str(theirs)]) == 0
    if change:
        (theirs / change).unlink()
    out = str(tmp_path / "out")
    assert main(["fit", "--data", data, "--from-peft", str(theirs), "--out", out, *more]) == 2
    assert message in capsys.readouterr().err
    assert not Path(out).exists()
