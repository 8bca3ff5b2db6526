"""The classification head that a PEFT model brings along."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bayes_lora.adapters import Factor
from bayes_lora.backbone import Backbone, BayesianAdapter
from bayes_lora.backbone.precision import float32_or_wider
from bayes_lora.errors import UnsupportedError
from bayes_lora.scorers.base import Batch
from bayes_lora.scorers.class_head import ClassHead


@dataclass(frozen=True)
class ModelHead(ClassHead):
    """The logits of a sequence classifier; what of its head PEFT trained is random as well.

    Args:
        options: The labels, in the order of the model's logits.
        pooling: Not looked at: the head pools by itself.
    """

    def factors(self, hidden_size: int) -> dict[str, Factor]:
        """None: the head's tensors are the adapter's."""
        return {}

    def problem(self, backbone: Backbone, options: tuple[str, ...]) -> str | None:
        """Say so where the options are not the model's labels."""
        labels = class_labels(backbone)
        named = {f"LABEL_{i}" for i in range(len(labels))} != set(labels)
        if len(options) != len(labels) or (named and options != labels):
            return f"its options {list(options)} are not the model's labels {list(labels)}"
        return super().problem(backbone, options)

    def embed(self, backbone: Backbone, inputs: Batch) -> Tensor:
        """Give the logits of texts, ``[B, labels]``, float32 or wider."""
        assert isinstance(backbone, BayesianAdapter)
        return float32_or_wider(backbone.class_logits(inputs))

    def features(
        self, backbone: Backbone, batch: Batch, shared: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Run the classifier."""
        return {"logits": self.embed_all(backbone, batch, "input")}

    def score(
        self, features: Mapping[str, Tensor], batch: Batch, head: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the classifier's own logits."""
        return features["logits"]


def class_labels(backbone: Backbone) -> tuple[str, ...]:
    """Return the labels of a PEFT model's classifier, in order.

    Raises:
        UnsupportedError: It has no classifier.
    """
    if not backbone.class_labels:
        raise UnsupportedError(
            f"The scorer 'model-head' needs a PEFT model for sequence classification, and backbone "
            f"{backbone.name!r} is none: use class-head."
        )
    return backbone.class_labels
