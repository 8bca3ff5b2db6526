"""The demo: two fits on a task the project generates, and a report that compares them."""

from pathlib import Path

from bayes_lora.backbone import MINILM, load_backbone
from bayes_lora.data import generate, write_csv
from bayes_lora.files import atomic_folder
from bayes_lora.inference import FitSettings, fit
from bayes_lora.output import write_predictions
from bayes_lora.run_config import check_free
from calibration import write_report

TRAIN_ROWS = 200
TEST_ROWS = 400
EPOCHS = 16  # fewer than the default, to be done in two minutes on two cores
GUIDES_SHOWN = {"mle": "mle-lora", "mean-field": "bayesian-lora"}


def run_demo(out: Path, seed: int = 0) -> Path:
    """Fit MLE LoRA and Bayesian LoRA on generated support messages and report on both.

    The messages and how they are made: ``bayes_lora.data.generated``. Everything is kept in
    ``out``: the data, the two runs, their predictions and the report.

    Args:
        out: A new or empty folder.
        seed: Of the data and the fits.

    Returns:
        Where ``report.html`` lies.

    Raises:
        RunFolderError: ``out`` is not empty.
        ConfigError: MiniLM is not installed, or ``out`` cannot be written.
    """
    check_free(out)
    with atomic_folder(out) as unfinished:
        _run(unfinished, seed)
    return out / "report" / "report.html"


def _run(out: Path, seed: int) -> None:
    train = generate(TRAIN_ROWS, seed=2 * seed)
    test = generate(TEST_ROWS, seed=2 * seed + 1)
    write_csv(train, out / "train.csv")
    write_csv(test, out / "test.csv")
    files = []
    for guide, name in GUIDES_SHOWN.items():
        settings = FitSettings(epochs=EPOCHS, seed=seed)
        posterior = fit(
            [train], load_backbone(MINILM), guide=guide, settings=settings, progress=True
        )
        posterior.save_pretrained(out / name)
        files.append(out / f"{name}.jsonl")
        write_predictions([test], posterior.predict(test.examples, seed=seed), files[-1])
    write_report(files, out / "report", title="Support messages: MLE LoRA and Bayesian LoRA")
