"""Variational families by name, one a file."""

from dataclasses import dataclass

from bayes_lora.guides.base import Guide, parameter_name, sample
from bayes_lora.guides.mean_field import MeanField
from bayes_lora.guides.point import Point


@dataclass(frozen=True)
class GuideChoice:
    """What a guide's name stands for.

    Args:
        guide: The variational family.
        flat_prior: Whether the model's priors are replaced by flat ones (maximum likelihood).
    """

    guide: type[Guide]
    flat_prior: bool = False


GUIDES: dict[str, GuideChoice] = {
    "mean-field": GuideChoice(MeanField),
    "map": GuideChoice(Point),
    "mle": GuideChoice(Point, flat_prior=True),
}

__all__ = [
    "GUIDES",
    "Guide",
    "GuideChoice",
    "MeanField",
    "Point",
    "parameter_name",
    "sample",
]
