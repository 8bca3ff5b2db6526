"""Settings dataclasses to JSON and back, each by its name in a table of its kind."""

from dataclasses import asdict
from typing import Any, TypeVar

T = TypeVar("T")


def named_to_json(settings: Any, table: dict[str, type[T]]) -> dict[str, Any]:
    """Describe a settings dataclass by its name in ``table`` and its fields."""
    name = next(name for name, kind in table.items() if kind is type(settings))
    return {"type": name, **asdict(settings)}


def named_from_json(described: dict[str, Any], table: dict[str, type[T]]) -> T:
    """Make the settings dataclass that ``named_to_json`` described."""
    fields = {key: value for key, value in described.items() if key != "type"}
    return table[described["type"]](**fields)
