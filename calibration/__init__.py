"""Calibration of class probabilities: metrics, bootstrap intervals, diagrams and a report.

Knows arrays only. Everything is validated before anything is computed from it:

    >>> from calibration import bootstrap_interval, ece
    >>> value = ece(probabilities, labels)
    >>> low, high = bootstrap_interval(ece, probabilities, labels)
"""

from calibration.bootstrap import Interval, bootstrap_interval
from calibration.detection import Detection, detection
from calibration.diagrams import reliability_diagram, risk_coverage_diagram
from calibration.errors import (
    CalibrationError,
    InvalidPredictionsError,
    ParameterError,
    PredictionsFileError,
    ReportError,
    UndefinedMetricError,
)
from calibration.macro import Estimate, macro_interval, paired_difference
from calibration.metrics import (
    accuracy,
    adaptive_ece,
    aurc,
    auroc,
    brier,
    classwise_ece,
    ece,
    mce,
    nll,
)
from calibration.reading import PredictionsFile, read_predictions
from calibration.recalibration import apply_temperature, fit_recalibration, fit_temperature
from calibration.report import write_report
from calibration.summary import entropy
from calibration.validation import Predictions, validate

__all__ = [
    "CalibrationError",
    "Detection",
    "Estimate",
    "Interval",
    "InvalidPredictionsError",
    "ParameterError",
    "Predictions",
    "PredictionsFile",
    "PredictionsFileError",
    "ReportError",
    "UndefinedMetricError",
    "accuracy",
    "adaptive_ece",
    "apply_temperature",
    "aurc",
    "auroc",
    "bootstrap_interval",
    "brier",
    "classwise_ece",
    "detection",
    "ece",
    "entropy",
    "fit_recalibration",
    "fit_temperature",
    "macro_interval",
    "mce",
    "nll",
    "paired_difference",
    "read_predictions",
    "reliability_diagram",
    "risk_coverage_diagram",
    "validate",
    "write_report",
]
