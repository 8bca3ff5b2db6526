"""What adapters' settings must be."""

from typing import Any

from bayes_lora.errors import ConfigError


def check_counts(settings: Any, *names: str) -> None:
    """Check that settings which count something are at least 1.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            kind = type(settings).__name__
            raise ConfigError(f"{kind} {name} must be at least 1, not {value}.")
