"""What bayes-lora raises on purpose. Each message names what is wrong and what to do."""

import math


class BayesLoraError(Exception):
    """Base of every error raised on purpose; the command line turns it into one line, status 2."""


class InputDataError(BayesLoraError, ValueError):
    """The user's data cannot be used: the message names file, row or column."""


class ConfigError(BayesLoraError, ValueError):
    """A parameter or flag has a value that cannot work: the message names it and what would."""


class UnsupportedError(BayesLoraError, NotImplementedError):
    """A combination that is not built: the message says what to use instead."""


class RunFolderError(BayesLoraError, OSError):
    """A run folder is missing, broken, already taken, or belongs to another backbone."""


class FitError(BayesLoraError, ArithmeticError):
    """A fit went wrong numerically: the message says what to change."""


class DataWarning(UserWarning):
    """The user's data can be used, but not for all that they seem to be meant for."""


class FitWarning(UserWarning):
    """A fit ended, but there are signs that its result is not what it should be."""


class SpeedWarning(UserWarning):
    """What was asked for works, but takes far longer on this machine than what it replaces."""


def check_positive(name: str, value: float) -> None:
    """Raise ConfigError unless a parameter is a positive, finite number."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} must be positive and finite, not {value}.")


def check_seed(seed: int) -> None:
    """Raise ConfigError unless a seed is one that all generators take."""
    if not 0 <= seed < 2**32:
        raise ConfigError(f"A seed must lie between 0 and 2^32 - 1, not {seed}.")
