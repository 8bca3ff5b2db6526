"""How theta is learned; the defaults are justified in docs/defaults.md."""

from dataclasses import asdict, dataclass, field
from typing import Any

from bayes_lora.errors import ConfigError, check_positive, check_seed
from bayes_lora.meta.theta import THETA_GUIDES, HyperPriors

AMORTIZATIONS = ("gradient", "encoder")
METHODS = ("abmll", "multi-task", "fomaml", "reptile", "lora", "abmll-published")
STEPWISE = ("fomaml", "reptile", "abmll-published")  # which take steps on training tasks


@dataclass(frozen=True)
class EpisodeSettings:
    """What an episode is.

    Args:
        support: Sizes of support sets, one drawn for each batch of tasks: labelled examples of
            each class of a task with fixed labels, in all for multiple choice.
        query: Queries an episode; 0: the support rows themselves, so that the objective is the
            evidence lower bound of the whole hierarchy.
        per_class: Whether sizes count for each class; else in all, drawn whatever the labels.
    """

    support: tuple[int, ...] = (1, 4)
    query: int = 32
    per_class: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "support", tuple(self.support))  # JSON knows lists only
        if not self.support or min(self.support) < 0 or self.query < 0:
            raise ConfigError("An episode needs support sizes, and neither they nor query below 0.")
        if not self.query and 0 in self.support:
            raise ConfigError("An episode without queries needs support: drop the size 0.")


@dataclass(frozen=True)
class MetaSettings:
    """How theta and an amortization are learned.

    Args:
        method: ``abmll``, or what it is compared with: ``multi-task``: one adapter for all tasks;
            ``fomaml`` and ``reptile``: a point that steps adapt; ``lora``: those steps from the
            adapter's random start, nothing learned from the training tasks; ``abmll-published``:
            as released (docs/maths.md).
        amortization: ``gradient``: steps on a task's ELBO; ``encoder``: a forward pass.
        theta: The posterior of what tasks share: ``point`` or ``mean-field``.
        steps: Gradient steps on a new task, K; None for 15 by gradient, none behind an encoder.
        train_steps: Gradient steps on a training task's support before its queries are scored;
            None for K with a method that learns from steps, 1 for ABMLL by gradient, else none.
        learning_rate: Of a task's means in these steps.
        scale_learning_rate: Of a task's log standard deviations.
        tau: Where tau starts, or stays; in units of each factor's natural size.
        learn_tau: Whether tau is learned; else it stays.
        kl_weight: Weight of the priors against the likelihood. 1 is Bayes' rule; any other value
            is tempering.
        hyper_priors: Priors on theta.
        episodes: What an episode is.
        tasks_per_step: Tasks side by side in one step, T.
        max_steps: Optimizer steps on theta.
        meta_learning_rate: Of theta's means (AdamW without decay, linear decay).
        meta_scale_learning_rate: Of log scales and of the scorer's own weights.
        patience: With meta-dev tasks: evaluations without a better NLL before stopping.
        evaluations: How often the meta-dev tasks are looked at, at most.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        seed: Of initial values, episodes and draws.
    """

    method: str = "abmll"
    amortization: str = "gradient"
    theta: str = "point"
    steps: int | None = None
    train_steps: int | None = None
    learning_rate: float = 2e-3
    scale_learning_rate: float = 1e-2
    tau: float = 0.1
    learn_tau: bool = False
    kl_weight: float = 0.1
    hyper_priors: HyperPriors = field(default_factory=HyperPriors)
    episodes: EpisodeSettings = field(default_factory=EpisodeSettings)
    tasks_per_step: int = 8
    max_steps: int = 200
    meta_learning_rate: float = 1e-3
    meta_scale_learning_rate: float = 5e-3
    patience: int = 2
    evaluations: int = 8
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, table in (
            ("method", self.method, METHODS),
            ("amortization", self.amortization, AMORTIZATIONS),
            ("theta", self.theta, THETA_GUIDES),
        ):
            if value not in table:
                raise ConfigError(f"There is no {name} {value!r}: choose from {', '.join(table)}.")
        if self.amortization == "encoder" and self.method != "abmll":
            raise ConfigError(f"The method {self.method!r} has no encoder: it adapts by steps.")
        numbers = {n: v for n, v in vars(self).items() if type(v) in (int, float)}
        for name, value in numbers.items():
            if name not in ("seed", "steps", "train_steps"):
                check_positive(name, value)
        if min(self.gradient_steps, self.training_steps) < 0:
            raise ConfigError("steps and train_steps must be 0 or more.")
        if self.method in STEPWISE and not self.training_steps:
            raise ConfigError(f"The method {self.method!r} learns from steps: take 1 or more.")
        if self.method == "abmll-published" and 0 in self.episodes.support:
            raise ConfigError("ABMLL as published learns from support alone: drop the size 0.")
        if self.learn_tau and self.amortization == "gradient" and not self.training_steps:
            raise ConfigError(
                "tau can only be learned from tasks that move: give train_steps of 1 or more."
            )
        check_seed(self.seed)

    @property
    def gradient_steps(self) -> int:
        """K, whichever way it was given."""
        if self.steps is not None:
            return self.steps
        return 15 if self.amortization == "gradient" else 0

    @property
    def training_steps(self) -> int:
        """K on a training task, whichever way it was given."""
        if self.train_steps is not None:
            return self.train_steps
        if self.method in STEPWISE:
            return self.gradient_steps
        return int(self.method == "abmll" and self.amortization == "gradient")

    def to_json(self) -> dict[str, Any]:
        """Describe the settings."""
        return asdict(self)

    @staticmethod
    def from_json(described: dict[str, Any]) -> "MetaSettings":
        """Make the settings that ``to_json`` described."""
        return MetaSettings(
            **described
            | {
                "hyper_priors": HyperPriors(**described["hyper_priors"]),
                "episodes": EpisodeSettings(**described["episodes"]),
            }
        )
