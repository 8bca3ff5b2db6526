"""What a posterior is made of, before a fit: a variational family's settings."""

from abc import ABC, abstractmethod

from bayes_lora.guides.base import Guide
from bayes_lora.model import BayesianModel


class Family(ABC):
    """A guide's settings; a frozen dataclass that builds the guide.

    To add one: a file here, a line in ``GUIDES``, and one in ``inference.methods.METHODS`` that
    says how it is fitted; the conformance suite runs it.
    """

    @abstractmethod
    def build(self, model: BayesianModel) -> Guide:
        """Make the guide of a program's sites, at its start."""

    def linearises(self, class_head: bool) -> bool:
        """Say whether predictions are those of the linearised model where a user does not say.

        docs/defaults.md has what was tried.

        Args:
            class_head: Whether it predicts for a class head, and not for options that are read.
        """
        return False
