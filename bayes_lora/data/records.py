"""The rows of a csv or jsonl file as named fields, before anything is known of their meaning."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bayes_lora.errors import InputDataError

Value = str | list[str]
NO_TEXT = re.compile("[\\0\\ud800-\\udfff]")


@dataclass(frozen=True)
class Record:
    """One row: where it stands, and its fields by column name."""

    where: str
    fields: Mapping[str, Value]


def read_records(path: Path) -> list[Record]:
    """Read the rows of a .csv or .jsonl file; blank lines are skipped.

    A csv row is called by the physical line it starts on, which a quoted newline in an
    earlier row moves on. In jsonl, numbers, true and false are taken as they are written
    (`1` is "1") and null as an empty string.

    Raises:
        InputDataError: The extension is another one, the file cannot be read, is not
            well-formed, or has no rows.
    """
    parse = {".csv": _csv_records, ".jsonl": _jsonl_records}.get(path.suffix.lower())
    if parse is None:
        raise InputDataError(f"{str(path)!r}: unknown extension; give a .csv or .jsonl file")
    text = read_text(path)
    if not text.strip():
        raise InputDataError(f"{path.name}: the file is empty; give it rows")
    records = parse(text, path.name)
    if not records:
        raise InputDataError(f"{path.name}: there is a header but no rows below it; add rows")
    return records


def read_text(path: Path, name: str | None = None) -> str:
    """Read a UTF-8 file, without its byte order mark.

    Args:
        path: The file.
        name: What errors call it; its file name if not given.

    Raises:
        InputDataError: It cannot be read, is not UTF-8, or holds a NUL byte.
    """
    name = name or path.name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputDataError(f"{str(path)!r}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputDataError(f"{str(path)!r}: this is a directory; give a file in it") from None
    except (OSError, ValueError) as error:  # ValueError: the path itself cannot be a path
        raise InputDataError(f"{str(path)!r}: cannot be read ({error})") from None
    _refuse_byte(name, content, content.find(b"\0"), "a NUL byte")
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        bad = f"byte 0x{content[error.start]:02x}, which is not UTF-8"
        _refuse_byte(name, content, error.start, bad)
        raise


def _refuse_byte(name: str, content: bytes, offset: int, what: str) -> None:
    if offset >= 0:
        line = content.count(b"\n", 0, offset) + 1
        raise InputDataError(
            f"{name}, line {line}: {what} at byte offset {offset}; save the file as UTF-8 text"
        )


def _csv_records(text: str, name: str) -> list[Record]:
    rows = _csv_rows(text, name)
    _, header = rows[0]
    columns = [column.strip() for column in header]
    _refuse_duplicates(columns, f"{name}, header")
    records = []
    for line, row in rows[1:]:
        where = f"{name}, row {line}"
        if len(row) != len(columns):
            raise InputDataError(
                f"{where}: {len(row)} fields where the header has {len(columns)}; "
                "quote fields that contain commas"
            )
        records.append(Record(where, dict(zip(columns, row, strict=True))))
    return records


def _csv_rows(text: str, name: str) -> list[tuple[int, list[str]]]:
    """Every row that is not blank, with the physical line it starts on."""
    rows = []
    start = 1
    # strict: without it, a quote that is never closed swallows the rest of the file silently.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    # The limit on a field's size belongs to the whole process, so it is put back afterwards.
    limit = csv.field_size_limit(len(text) + 1)
    try:
        for row in reader:
            if row:
                rows.append((start, row))
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputDataError(
            f"{name}, row {start}: not valid csv ({error}); check the quotes"
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _jsonl_records(text: str, name: str) -> list[Record]:
    # Not splitlines(): it also splits at characters that may stand inside a JSON string.
    lines = enumerate(text.split("\n"), start=1)
    return [_json_record(line, f"{name}, line {n}") for n, line in lines if line.strip()]


def _json_record(line: str, where: str) -> Record:
    pairs = load_json(line, where)
    if not isinstance(pairs, tuple):
        raise InputDataError(f"{where}: not a JSON object; give one JSON object per line")
    _refuse_duplicates([key for key, _ in pairs], where)
    return Record(where, {_scalar(key, where): _value(value, where) for key, value in pairs})


def parse_json(text: str, where: str) -> Value:
    """Read a JSON scalar, or list of them, as the text it is written as.

    Raises:
        InputDataError: It is not valid JSON, or nested deeper than a list.
    """
    return _value(load_json(text, where), where)


def load_json(text: str, where: str) -> object:
    """Read JSON: numbers as they are written, objects as tuples of pairs, so that a key given
    twice can be seen.

    Raises:
        InputDataError: It is not valid JSON.
    """
    try:
        return json.loads(
            text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=tuple
        )
    except json.JSONDecodeError as error:
        raise InputDataError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos + 1}); correct it"
        ) from None
    except RecursionError:
        raise InputDataError(f"{where}: the JSON is nested too deep; flatten it") from None


def _value(value: object, where: str) -> Value:
    if isinstance(value, list):
        return [_scalar(item, where) for item in value]
    return _scalar(value, where)


def _scalar(value: object, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputDataError(f"{where}: there is a nested value; flatten it")
    if NO_TEXT.search(value):
        raise InputDataError(
            f"{where}: \\u0000 or half of a surrogate pair is not text; remove the escape"
        )
    return value


def _refuse_duplicates(columns: Iterable[str], where: str) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputDataError(f"{where}: column {twice[0]!r} occurs twice; rename or remove one")
