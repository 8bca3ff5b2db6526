"""From labelled text to a posterior: the main job, in one call."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from bayes_lora.adapters import Adapter, LoRA
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example, Kind, Task
from bayes_lora.effects import Effect, Flat, LearnedNormal, Normal, Prior
from bayes_lora.errors import ConfigError, InputDataError, check_positive
from bayes_lora.guides import GUIDES
from bayes_lora.inference.svi import FitSettings, fit_svi
from bayes_lora.model import BayesianModel
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import PosteriorConfig
from bayes_lora.scorers import (
    ClassHead,
    LabelledRows,
    Scorer,
    check_scorable,
    default_scorer,
    make_scorer,
)

POPULATION = "population"


@dataclass(frozen=True)
class ModelSettings:
    """Priors and their weight. The defaults are justified in docs/defaults.md.

    Args:
        update_prior: Prior of adapter factors that start at zero, such as LoRA's B.
        projection_prior: Prior of those that start at a random projection, such as LoRA's A, and
            is centred there.
        head_prior: Prior of the head.
        kl_weight: Weight of the prior against the likelihood. 1 is Bayes' rule, any other value
            is tempering.
    """

    update_prior: Prior = field(default_factory=lambda: Normal(1.0))
    projection_prior: Prior = field(default_factory=lambda: Normal(0.3))
    head_prior: Prior = field(default_factory=lambda: Normal(1.5))
    kl_weight: float = 0.3

    def __post_init__(self) -> None:
        check_positive("kl_weight", self.kl_weight)

    @property
    def priors(self) -> tuple[Prior, Prior, Prior]:
        """All three priors."""
        return self.update_prior, self.projection_prior, self.head_prior

    def effect(self, adapter: Adapter) -> Effect:
        """Make the population effect: the adapter with these priors."""
        projections = [n for n, f in adapter.factors(1, 1).items() if not f.starts_at_zero]
        own = dict.fromkeys(projections, self.projection_prior)
        return Effect(POPULATION, adapter, self.update_prior, own)


# A scale cannot be learned with a point: the joint optimum is a point of no width at zero.
DEFAULTS = {
    "mean-field": ModelSettings(),
    "map": ModelSettings(Normal(0.3), Normal(0.3), Normal(1.0), kl_weight=1.0),
    "mle": ModelSettings(Flat(), Flat(), Flat(), kl_weight=1.0),
}


def fit(
    tasks: Iterable[Task],
    backbone: Backbone,
    *,
    scorer: str | None = None,
    adapter: Adapter | None = None,
    guide: str = "mean-field",
    model_settings: ModelSettings | None = None,
    settings: FitSettings | None = None,
    dev: Iterable[Task] = (),
    progress: bool = False,
) -> Posterior:
    """Fit a posterior over adapter and scorer weights to one labelled task or several.

    Rows of all tasks are drawn alike, so a task counts by its number of rows.

    Args:
        tasks: Training rows: what ``read`` returns, or a list.
        backbone: The frozen backbone; its target layers get the adapter.
        scorer: A name in ``SCORERS``; None for a class head where all tasks share one label set,
            else for ``similarity`` (encoders) or ``likelihood`` (language models).
        adapter: What the weight update is made of; LoRA of rank 8 if None.
        guide: A name in ``GUIDES``: ``mean-field``, ``map`` or ``mle``.
        model_settings: Priors; the guide's defaults if None.
        settings: Length, learning rates and the like; the defaults if None.
        dev: Rows for early stopping; the Bayesian default needs none.
        progress: Whether to show a progress bar.

    Returns:
        The posterior, on the backbone's device.

    Raises:
        ConfigError: An unknown guide or scorer, or priors that the guide cannot work with.
        UnsupportedError: The scorer does not fit the backbone.
        InputDataError: A missing label, options that cannot be scored, one class only, or, with a
            class head, label sets that differ or a dev label never seen in training.
        FitError: The loss stopped being finite.
    """
    if guide not in GUIDES:
        raise ConfigError(f"There is no guide {guide!r}: choose from {', '.join(GUIDES)}.")
    tasks, dev = tuple(tasks), tuple(dev)
    settings = settings or FitSettings()
    chosen = model_settings or DEFAULTS[guide]
    _check_priors(guide, chosen)
    check_trainable(tasks)
    config = make_config(
        backbone,
        tasks,
        guide=guide,
        scorer=scorer or default_scorer(backbone, tasks),
        adapter=adapter or LoRA(),
        chosen=chosen,
        settings=settings,
    )
    _check_rows(config.scorer, backbone, tasks, dev)
    model, fitted = config.build(backbone)
    train, dev_rows = _rows(model, tasks), _rows(model, dev) if dev else None
    fit_svi(model, fitted, train, settings, dev=dev_rows, progress=progress, label=guide)
    return Posterior(model, fitted, config)


def make_config(
    backbone: Backbone,
    tasks: Sequence[Task],
    *,
    guide: str,
    scorer: str,
    adapter: Adapter,
    chosen: ModelSettings,
    settings: FitSettings | None = None,
) -> PosteriorConfig:
    """Describe the model of one population effect and a scorer that `fit` fits."""
    settings = settings or FitSettings()
    return PosteriorConfig(
        scorer=make_scorer(scorer, backbone, tasks),
        guide=guide,
        effects=(chosen.effect(adapter),),
        head_prior=chosen.head_prior,
        label_sets=label_sets(tasks),
        num_rows=sum(map(len, tasks)),
        kl_weight=chosen.kl_weight,
        seed=settings.seed,
        fit=asdict(settings),
    )


def label_sets(tasks: Iterable[Task]) -> tuple[tuple[str, ...], ...]:
    """List the different label sets of the tasks that have one."""
    fixed = (task.options for task in tasks if task.kind is Kind.FIXED_LABELS)
    return tuple(dict.fromkeys(fixed))


def check_trainable(tasks: Sequence[Task]) -> None:
    """Check that there is something to learn: rows, a label in each, and two classes in all.

    Raises:
        InputDataError: There is not; the row or task is named.
    """
    if not tasks:
        raise InputDataError("There is no task to fit; give at least one.")
    answers = {example.options[label] for t in tasks for example, label in _labelled(t)}
    if len(answers) < 2:
        raise InputDataError(
            f"{tasks[0].name}: one class only, all {sum(map(len, tasks))} rows are labelled "
            f"{answers.pop()!r}; add rows of another class"
        )


def _labelled(task: Task) -> Iterable[tuple[Example, int]]:
    return zip(task.examples, task.labels, strict=True)


def _check_priors(guide: str, chosen: ModelSettings) -> None:
    priors = chosen.priors
    if guide == "map" and any(isinstance(prior, LearnedNormal) for prior in priors):
        raise ConfigError(
            "The guide 'map' cannot learn a prior scale: its optimum is a scale of zero. "
            "Give it a Normal prior of fixed scale."
        )
    flat = [isinstance(prior, Flat) for prior in priors]
    if guide == "mean-field" and any(flat):
        raise ConfigError("A mean-field posterior needs a proper prior; a Flat one is for 'mle'.")
    if guide == "mle" and not (all(flat) and chosen.kl_weight == 1):
        raise ConfigError("Maximum likelihood has no prior to weigh; use the guide 'map'.")


def _rows(model: BayesianModel, tasks: Sequence[Task]) -> LabelledRows:
    examples = [example for task in tasks for example in task.examples]
    labels = [label for task in tasks for label in task.labels]
    return LabelledRows(model.scorer.rows(model.backbone, examples), labels)


def _check_rows(
    scorer: Scorer, backbone: Backbone, tasks: Sequence[Task], dev: Sequence[Task]
) -> None:
    for task in (*tasks, *dev):
        check_scorable(scorer, backbone, task.examples)
    if not isinstance(scorer, ClassHead):
        return
    seen = {label for task in tasks for label in task.labels}
    for example, label in (pair for task in dev for pair in _labelled(task)):
        if label not in seen:
            raise InputDataError(
                f"{example.where}: label {example.options[label]!r} never occurs in training."
            )
