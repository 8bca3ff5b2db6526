"""From labelled text to a posterior: the main job, in one call."""

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm.auto import tqdm

from bayes_lora.adapters import Adapter
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example, Kind, Task, check_attributes, level_of, levels_of
from bayes_lora.errors import DataWarning, InputDataError
from bayes_lora.guides import Family, Guide, MeanField
from bayes_lora.inference.attributes import AttributeSettings
from bayes_lora.inference.levels import fit_levels
from bayes_lora.inference.methods import METHODS, family_of, guide_name
from bayes_lora.inference.model_settings import ModelSettings
from bayes_lora.inference.resumable import claim
from bayes_lora.inference.running import Running
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import fit_svi
from bayes_lora.model import BayesianModel
from bayes_lora.posterior import Posterior
from bayes_lora.reconstruction import check_reconstructs
from bayes_lora.run_config import PosteriorConfig
from bayes_lora.scorers import (
    ClassHead,
    LabelledRows,
    Scorer,
    check_scorable,
    default_scorer,
    make_scorer,
)


def fit(
    tasks: Iterable[Task],
    backbone: Backbone,
    *,
    scorer: str | None = None,
    adapter: Adapter | None = None,
    guide: str | Family = "mean-field",
    model_settings: ModelSettings | None = None,
    settings: FitSettings | None = None,
    dev: Iterable[Task] = (),
    progress: bool = False,
    resumable: str | Path | None = None,
    attributes: AttributeSettings | Sequence[str] = (),
) -> Posterior:
    """Fit a posterior over adapter and scorer weights to one labelled task or several.

    Rows of all tasks are drawn alike, so a task counts by its number of rows. With attributes, a
    mean-field fit has two parts: the population, then the deviations of all levels from it
    (docs/attributes.md); points of both are fitted together.

    Args:
        tasks: Training rows: what ``read`` returns, or a list.
        backbone: The frozen backbone; its target layers get the adapter.
        scorer: A name in ``SCORERS``; None for a class head where all tasks share one label set,
            else for ``similarity`` (encoders) or ``likelihood`` (language models).
        adapter: What the weight update is made of; if None, LoRA of rank 8, or the PEFT model's.
        guide: A name in ``GUIDES``, or a family with settings of its own.
        model_settings: Priors; the guide's defaults if None.
        settings: Length, learning rates and the like; the defaults if None.
        dev: Rows for early stopping; the Bayesian default needs none.
        progress: Whether to show a progress bar.
        resumable: A folder for the state of the fit, written every epoch (every 500 steps in long
            ones). The same call goes on from what is there, and ends where it would have ended.
            It is yours to delete.
        attributes: Columns whose levels (each user, each domain) get weights of their own, or
            all that can be said of these.

    Returns:
        The posterior, on the backbone's device.

    Raises:
        ConfigError: An unknown guide or scorer, or priors that the guide cannot work with.
        UnsupportedError: The scorer does not fit the backbone.
        InputDataError: An attribute that is not there or has one level, a missing label, options
            that cannot be scored, one class only, or, with a class head, label sets that differ or
            a dev label never seen in training.
        RunFolderError: ``resumable`` holds the state of another fit, or other things.
        FitError: The loss stopped being finite.

    Warns:
        DataWarning: An attribute has missing values, a level for every row, or another
            attribute's groups.
    """
    family = family_of(guide)
    method, name = METHODS[type(family)], guide_name(family)
    tasks, dev = tuple(tasks), tuple(dev)
    settings = settings or FitSettings()
    chosen = model_settings or method.settings
    views = _attribute_settings(attributes)
    views.check(family)
    method.check(name, chosen, adapter)
    check_trainable(tasks)
    for line in check_attributes(tasks, views.columns):
        warnings.warn(line, DataWarning, stacklevel=2)
    if views.terms.reconstruction:
        check_reconstructs(backbone)
    config = make_config(
        backbone,
        tasks,
        guide=family,
        scorer=scorer or default_scorer(backbone, tasks),
        adapter=adapter or backbone.default_adapter,
        chosen=chosen,
        settings=settings,
        views=views,
    )
    _check_rows(config.scorer, backbone, tasks, dev)
    model, fitted = config.build(backbone)
    train, dev_rows = labelled_rows(model, tasks), labelled_rows(model, dev) if dev else None
    running = Running(name, progress, Path(resumable) if resumable is not None else None)
    if running.folder is not None:
        claim(running.folder, config, backbone, [train] + ([dev_rows] if dev_rows else []))
    method.run(model, fitted, train, settings, family=family, dev=dev_rows, running=running)
    if views.columns and isinstance(family, MeanField):
        _fit_deviations(model, fitted, train, settings, running)
        config = replace(config, coordinates={n: e.width for n, e in model.by_level.items()})
    coarse = None
    if views.separation:
        alone = replace(settings, max_steps=views.separation)
        coarse = _fit_separately(model, fitted, train, alone, running)
    return Posterior(model, fitted, config, coarse)


def _attribute_settings(attributes: AttributeSettings | Sequence[str]) -> AttributeSettings:
    if isinstance(attributes, AttributeSettings):
        return attributes
    return AttributeSettings((attributes,) if isinstance(attributes, str) else tuple(attributes))


def _fit_deviations(
    model: BayesianModel,
    guide: Guide,
    train: LabelledRows,
    settings: FitSettings,
    running: Running,
) -> None:
    """Fit all levels' deviations around a population that stays as it is."""
    with tqdm(total=len(train), desc="levels", disable=not running.progress) as bar:
        fit_levels(model, guide, train, seed=settings.seed, progress=bar.update)


def _fit_separately(
    model: BayesianModel,
    guide: Guide,
    train: LabelledRows,
    settings: FitSettings,
    running: Running,
) -> Guide:
    """Let a copy of the population go on without levels: M2A's separation stage."""
    coarse = copy.deepcopy(guide)
    running = replace(running, label="separation")
    fit_svi(model, coarse, train, settings, running=running, levels=False)
    return coarse


def make_config(
    backbone: Backbone,
    tasks: Sequence[Task],
    *,
    guide: Family,
    scorer: str,
    adapter: Adapter,
    chosen: ModelSettings,
    settings: FitSettings | None = None,
    views: AttributeSettings | None = None,
) -> PosteriorConfig:
    """Describe the model that `fit` fits: the population's effect, attributes', and a scorer."""
    settings = settings or FitSettings()
    views = views or AttributeSettings(())
    population = [chosen.effect(adapter)] if views.population else []
    own = {column: chosen.effect(views.adapter, column) for column in views.columns}
    return PosteriorConfig(
        scorer=make_scorer(scorer, backbone, tasks),
        guide=guide,
        effects=(*population, *own.values()),
        head_prior=chosen.head_prior,
        label_sets=label_sets(tasks),
        num_rows=sum(map(len, tasks)),
        kl_weight=chosen.kl_weight,
        seed=settings.seed,
        fit=asdict(settings),
        levels={effect.name: levels_of(tasks, column) for column, effect in own.items()},
        fusion=views.fusion,
        terms=views.terms,
        separated=views.separation > 0,
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


def labelled_rows(model: BayesianModel, tasks: Sequence[Task]) -> LabelledRows:
    """Make what a fit reads of tasks: the scorer's rows, each with its levels, and labels.

    Args:
        model: Has the scorer, and knows the levels; others, and missing ones, are -1.
        tasks: All rows are labelled.
    """
    examples = [example for task in tasks for example in task.examples]
    labels = [label for task in tasks for label in task.labels]
    rows = model.scorer.rows(model.backbone, examples)
    known = [effect.levels for effect in model.by_level.values()]
    levels = [
        tuple(own.index.get(level_of(example, own.attribute), -1) for own in known)
        for example in examples
    ]
    return LabelledRows(
        [replace(row, levels=own) for row, own in zip(rows, levels, strict=True)], labels
    )


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
