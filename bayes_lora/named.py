"""Settings dataclasses to JSON and back, each by its name in a table of its kind."""

from dataclasses import asdict, fields
from typing import Any, TypeVar

T = TypeVar("T")


def name_of(settings: Any, table: dict[str, type[T]]) -> str:
    """Give a settings dataclass's name in ``table``."""
    return next(name for name, kind in table.items() if kind is type(settings))


def named_to_json(settings: Any, table: dict[str, type[T]]) -> dict[str, Any]:
    """Describe a settings dataclass by its name in ``table`` and its fields.

    A field whose metadata say ``saved=False`` is data and not a setting, and left out.
    """
    data = {field.name for field in fields(settings) if not field.metadata.get("saved", True)}
    saved = {key: value for key, value in asdict(settings).items() if key not in data}
    return {"type": name_of(settings, table)} | saved


def named_from_json(described: dict[str, Any], table: dict[str, type[T]]) -> T:
    """Make the settings dataclass that ``named_to_json`` described."""
    fields = {key: value for key, value in described.items() if key != "type"}
    return table[described["type"]](**fields)
