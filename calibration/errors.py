"""The errors calibration raises on purpose. Each message names what is wrong and what to do."""


class CalibrationError(Exception):
    """Base of every error raised on purpose by this package."""


class InvalidPredictionsError(CalibrationError, ValueError):
    """The arrays are not class probabilities with labels.

    Args:
        problem: What is wrong and what to do.
        row: The first row (from 0) at fault, or None if the fault is not of one row.
    """

    def __init__(self, problem: str, row: int | None = None):
        super().__init__(problem if row is None else f"row {row}: {problem}")
        self.problem = problem
        self.row = row


class ParameterError(CalibrationError, ValueError):
    """A parameter such as the number of bins has a value that cannot work."""


class UndefinedMetricError(CalibrationError, ValueError):
    """The metric has no value on this data (AUROC when every answer is right, say)."""


class PredictionsFileError(CalibrationError, ValueError):
    """A predictions file cannot be used: the message names the file and the line at fault."""


class ReportError(CalibrationError, OSError):
    """The report cannot be written where it was asked for."""
