"""Writing files and folders whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from bayes_lora.errors import ConfigError


def check_writable(path: Path) -> None:
    """Check, before the work, that a file or folder can be made at ``path``.

    Raises:
        ConfigError: What there is above it is no folder, or not one to write to.
    """
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ConfigError(f"{str(path)!r} cannot be written: {above} is no folder to write to.")


def check_file(path: Path) -> None:
    """Check, before the work, that a file can be written at ``path``, over an older one if need be.

    Raises:
        ConfigError: It is a folder, or cannot be made.
    """
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder: name a file in it.")
    check_writable(path)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, which takes the name ``path`` only when the block succeeds.

    Raises:
        ConfigError: The file cannot be written there.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.chmod(0o644)  # safetensors' own mode lets nobody else read it
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def atomic_text(path: str | Path) -> Iterator[TextIO]:
    """Open a UTF-8 file that appears under ``path`` only when the ``with`` block succeeds.

    Raises:
        ConfigError: The file cannot be written there.
    """
    with (
        atomic_file(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes the name ``path`` only when the block succeeds.

    Args:
        path: A folder that does not exist yet, or an empty one.

    Raises:
        ConfigError: The folder cannot be written there.
    """
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        yield unfinished
        for written in (unfinished, *unfinished.rglob("*")):
            # The modes of mkdtemp and safetensors let nobody else read them.
            written.chmod(0o755 if written.is_dir() else 0o644)
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}.") from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
