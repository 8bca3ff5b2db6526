"""The command line's SPEC: which reader reads it."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bayes_lora.data.tabular import read_tabular
from bayes_lora.data.task import Task
from bayes_lora.errors import ConfigError

# By a scheme with its colon ("crossfit:") or by a file's extension. A reader is called with
# what follows the scheme, or with the file, and with `options`.
_READERS: dict[str, Callable[..., Task]] = {
    ".csv": read_tabular,
    ".jsonl": read_tabular,
}

# Two letters or more: one letter before a colon is a Windows drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9_+-]+:")


def read(spec: str, *, options: Sequence[str] | None = None) -> Task:
    """Read the task a SPEC names: `file.csv` or `file.jsonl`.

    A file whose name begins like a scheme ("notes:2.csv") is given as "./notes:2.csv".

    Args:
        spec: What the user gave on the command line.
        options: The options of a fitted run, as in `read_tabular`.

    Raises:
        ConfigError: No reader goes with the SPEC's scheme or extension.
        InputDataError: The data cannot be used.
    """
    match = _SCHEME.match(spec)
    scheme = match.group() if match else ""
    reader = _READERS.get((scheme or Path(spec).suffix).lower())
    if reader is None:
        forms = ", ".join(f"FILE{key}" if key[0] == "." else f"{key}NAME" for key in _READERS)
        raise ConfigError(f"{spec!r}: cannot be read; the forms supported are {forms}")
    return reader(spec.removeprefix(scheme), options=options)
