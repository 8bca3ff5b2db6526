"""Write report.json and report.html about one or several predictions files."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from calibration.bootstrap import LEVEL, RESAMPLES
from calibration.differences import compare_files, describe_difference
from calibration.entry import Entry, describe
from calibration.errors import ParameterError, ReportError
from calibration.levels import measure_levels
from calibration.metrics import BINS
from calibration.page import render
from calibration.reading import read_predictions
from calibration.summary import measure
from calibration.support import measure_support
from calibration.tasks import measure_tasks

VERSIONS_OF = ("numpy", "scipy", "netcal", "matplotlib", "jinja2")


def write_report(
    files: Sequence[Path],
    out: Path,
    *,
    title: str = "Calibration report",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> None:
    """Measure predictions files and write `report.json` and `report.html` about them.

    Everything is computed before anything is written, and each of the two is put in place whole:
    when it fails, an older report stays as it was.

    Args:
        files: Labelled predictions.jsonl files, at least one, none twice.
        out: Folder to write to; made if it is not there.
        title: Head of the page.
        seed: Seed of the bootstrap.
        resamples: Bootstrap resamples behind each interval.

    Raises:
        ParameterError: For no file, or the same one twice.
        PredictionsFileError: For a file that cannot be used; names the file and the line.
        ReportError: If `out` cannot be written to.
    """
    settings = {"bins": BINS, "resamples": resamples, "level": LEVEL, "seed": seed}
    entries = _entries(files, resamples=resamples, seed=seed)
    differences = compare_files(entries, resamples=resamples, level=LEVEL, seed=seed)
    compared = {"comparisons": [describe_difference(difference) for difference in differences]}
    described = {
        "title": title,
        "predictions": [describe(entry) for entry in entries],
        **(compared if differences else {}),
        "settings": settings,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in VERSIONS_OF},
    }
    texts = {
        "report.json": json.dumps(described, indent=2, allow_nan=False) + "\n",
        "report.html": render(entries, differences, title=title, settings=settings),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(out / name, text)
    except OSError as error:
        raise ReportError(
            f"{out}: the report cannot be written ({error.strerror}); choose another folder"
        ) from error


def _entries(files: Sequence[Path], *, resamples: int, seed: int) -> list[Entry]:
    names = unique_names(files)
    read = [read_predictions(path) for path in files]
    return [
        Entry(
            name,
            file,
            measure(file, resamples=resamples, level=LEVEL, seed=seed),
            measure_tasks(file, resamples=resamples, level=LEVEL, seed=seed),
            measure_support(file, resamples=resamples, level=LEVEL, seed=seed),
            measure_levels(file, resamples=resamples, level=LEVEL, seed=seed),
        )
        for name, file in zip(names, read, strict=True)
    ]


def unique_names(files: Sequence[Path]) -> list[str]:
    """A short name for each file: its stem, behind as many of its folders as tell them apart.

    Args:
        files: Paths, none of them twice.

    Returns:
        One name per path.

    Raises:
        ParameterError: For no file, or the same one twice.
    """
    if not files:
        raise ParameterError("files is empty; give at least one predictions file")
    parts = [(*path.resolve().parent.parts, path.stem) for path in files]
    for path, own in zip(files, parts, strict=True):
        if parts.count(own) > 1:
            raise ParameterError(f"{path} and another file differ in no folder or stem; give one")
    depths = [1] * len(parts)
    while True:
        names = ["/".join(own[-depth:]) for own, depth in zip(parts, depths, strict=True)]
        if len(set(names)) == len(names):
            return names
        depths = [
            depth + (names.count(name) > 1) for name, depth in zip(names, depths, strict=True)
        ]


def _replace(path: Path, text: str) -> None:
    """Write the text to `path` so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # JSON text may hold half of a surrogate pair, which UTF-8 cannot: it becomes "?".
        temporary.write_bytes(text.encode("utf-8", errors="replace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
