"""From labelled text to a posterior: the main job, in one call."""

from dataclasses import asdict, dataclass, field

from bayes_lora.adapters import Adapter, LoRA
from bayes_lora.backbone import Backbone
from bayes_lora.data import Task
from bayes_lora.effects import Effect, Flat, LearnedNormal, Normal, Prior
from bayes_lora.errors import ConfigError, InputDataError, check_positive
from bayes_lora.guides import GUIDES
from bayes_lora.inference.svi import FitSettings, LabelledTexts, fit_svi
from bayes_lora.posterior import Posterior, PosteriorConfig

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
    task: Task,
    backbone: Backbone,
    *,
    adapter: Adapter | None = None,
    guide: str = "mean-field",
    model_settings: ModelSettings | None = None,
    settings: FitSettings | None = None,
    dev: Task | None = None,
    progress: bool = False,
) -> Posterior:
    """Fit a posterior over adapter and head weights to a labelled task.

    Args:
        task: Training rows with one fixed set of options, at least two of which occur.
        backbone: The frozen backbone; its target layers get the adapter.
        adapter: What the weight update is made of; LoRA of rank 8 if None.
        guide: A name in ``GUIDES``: ``mean-field``, ``map`` or ``mle``.
        model_settings: Priors; the guide's defaults if None.
        settings: Length, learning rates and the like; the defaults if None.
        dev: Rows for early stopping; the Bayesian default needs none.
        progress: Whether to show a progress bar.

    Returns:
        The posterior, on the backbone's device.

    Raises:
        ConfigError: An unknown guide, or priors that the guide cannot work with.
        InputDataError: A missing label, one class only, or a dev label never seen in training.
        FitError: The loss stopped being finite.
    """
    if guide not in GUIDES:
        raise ConfigError(f"There is no guide {guide!r}: choose from {', '.join(GUIDES)}.")
    task.check_trainable()
    settings = settings or FitSettings()
    chosen = model_settings or DEFAULTS[guide]
    _check_priors(guide, chosen)
    config = make_config(
        backbone,
        task.options,
        len(task),
        guide=guide,
        adapter=adapter or LoRA(),
        chosen=chosen,
        settings=settings,
    )
    model, fitted = config.build(backbone)
    dev_rows = _dev_rows(dev, task) if dev is not None else None
    fit_svi(model, fitted, _rows(task), settings, dev=dev_rows, progress=progress, label=guide)
    return Posterior(model, fitted, config)


def make_config(
    backbone: Backbone,
    options: tuple[str, ...],
    num_rows: int,
    *,
    guide: str,
    adapter: Adapter,
    chosen: ModelSettings,
    settings: FitSettings | None = None,
) -> PosteriorConfig:
    """Describe the model of one population effect and a class head that `fit` fits."""
    settings = settings or FitSettings()
    return PosteriorConfig(
        options=options,
        guide=guide,
        effects=(chosen.effect(adapter),),
        head_prior=chosen.head_prior,
        pooling=backbone.pooling,
        num_rows=num_rows,
        kl_weight=chosen.kl_weight,
        seed=settings.seed,
        fit=asdict(settings),
    )


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


def _rows(task: Task) -> LabelledTexts:
    return LabelledTexts([example.input for example in task.examples], task.labels)


def _dev_rows(dev: Task, task: Task) -> LabelledTexts:
    if dev.options != task.options:
        raise InputDataError(
            f"{dev.name}: its options {list(dev.options)} are not the training task's "
            f"{list(task.options)}."
        )
    seen = set(task.labels)
    for example, label in zip(dev.examples, dev.labels, strict=True):
        if label not in seen:
            raise InputDataError(
                f"{example.where}: label {task.options[label]!r} never occurs in training."
            )
    return _rows(dev)
