"""From many labelled tasks to what they share: ABMLL (arXiv 2508.14285; docs/maths.md)."""

import math
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from bayes_lora.adapters import Adapter, LoRA
from bayes_lora.backbone import Backbone, BackboneKind
from bayes_lora.data import Task, check_disjoint
from bayes_lora.errors import InputDataError, UnsupportedError
from bayes_lora.inference.fit import check_trainable, label_sets
from bayes_lora.inference.progress import MetaProgress
from bayes_lora.inference.training_state import trainer_arguments, training
from bayes_lora.meta.config import MetaConfig
from bayes_lora.meta.development import fit_shift
from bayes_lora.meta.episodes import EpisodeRows, Episodes, Tokenized, development_episodes
from bayes_lora.meta.learned import MetaPosterior
from bayes_lora.meta.module import MetaModule
from bayes_lora.meta.settings import EpisodeSettings, MetaSettings
from bayes_lora.meta.training import MetaTrainer
from bayes_lora.scorers import Similarity, check_scorable, make_scorer

# Of ABMLL's steps; what episodes add to pooled rows is little (docs/defaults.md).
POOLED = 0.75


def meta_fit(
    tasks: Iterable[Task],
    backbone: Backbone,
    *,
    dev: Iterable[Task] = (),
    scorer: str | None = None,
    adapter: Adapter | None = None,
    settings: MetaSettings | None = None,
    start: MetaPosterior | None = None,
    progress: bool = False,
) -> MetaPosterior:
    """Learn what tasks share, so that a new one can be adapted to from a few examples.

    Args:
        tasks: Meta-training tasks, at least two.
        backbone: The frozen backbone.
        dev: Meta-dev tasks: they stop the training early and set how sure the scorer makes. Not
            among the training tasks, and never the ones to be judged on.
        scorer: A scorer that reads options; None for ``discriminant`` (encoders), else
            ``likelihood``.
        adapter: What a task's weights are; LoRA of rank 8 if None.
        settings: How; the defaults if None.
        start: Another meta-fit of the same adapter, whose theta training starts from. If None,
            ABMLL starts from one adapter for all tasks, which takes three quarters of the steps;
            all else from a random projection and no update.
        progress: Whether to show a progress bar.

    Raises:
        UnsupportedError: A class head, which cannot be carried to other labels, or an encoder
            amortization for a scorer without pooled states.
        InputDataError: Fewer than two tasks, a task that is in both lists, a missing label, or
            options that cannot be scored.
        FitError: The loss stopped being finite.
    """
    tasks, dev = tuple(tasks), tuple(dev)
    settings = settings or MetaSettings()
    _check_tasks(tasks, dev)
    if not backbone.row_aligned:
        raise UnsupportedError(
            "The rows of a PEFT model cannot have weights of their own, as several tasks in one "
            "pass need: meta-fit the base model, with one of our adapters."
        )
    name = scorer or default_meta_scorer(backbone, settings.method)
    config = _config(tasks, dev, backbone, name, adapter or LoRA(), settings)
    module = config.build(backbone)
    pooled = int(POOLED * settings.max_steps) if settings.method == "abmll" and not start else 0
    if pooled:
        # A head that learns from support has none to learn from here.
        own = "similarity" if isinstance(config.scorer, Similarity) else name
        start = meta_fit(
            tasks,
            backbone,
            dev=dev,
            scorer=own,
            adapter=adapter,
            settings=_pooled(_part(settings, pooled)),
            progress=progress,
        )
    if start is not None:
        start.hand_over(module)
    held_out = development_episodes(module.hierarchy.model, dev, settings.episodes)
    if settings.method == "lora":  # which learns nothing from other tasks
        _place(module, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    else:
        rest = _part(settings, settings.max_steps - pooled)
        train(module, tasks, held_out, rest, progress=progress)
    nlls = fit_shift(module.eval(), held_out) if dev else None
    return MetaPosterior(module, config, nlls)


def _config(
    tasks: Sequence[Task],
    dev: Sequence[Task],
    backbone: Backbone,
    scorer: str,
    adapter: Adapter,
    settings: MetaSettings,
) -> MetaConfig:
    """Say what is to be fitted, and check that its scorer can score the tasks."""
    if scorer == "class-head":
        raise UnsupportedError(
            "A class head knows one label set and cannot be carried to new tasks: use discriminant "
            "or similarity for an encoder, likelihood for a language model."
        )
    config = MetaConfig(
        scorer=make_scorer(scorer, backbone, tasks),
        adapter=adapter,
        settings=settings,
        tasks=tuple(task.name for task in tasks),
        dev_tasks=tuple(task.name for task in dev),
        label_sets=label_sets(tasks),
    )
    for task in (*tasks, *dev):
        check_scorable(config.scorer, backbone, task.examples)
    return config


def _part(settings: MetaSettings, steps: int) -> MetaSettings:
    """Make the settings of some of the steps, with as large a part of the evaluations."""
    evaluations = max(1, round(settings.evaluations * steps / settings.max_steps))
    return replace(settings, max_steps=steps, evaluations=evaluations)


def _pooled(settings: MetaSettings) -> MetaSettings:
    """Make the settings of one adapter for all tasks, for theta's mean to start from.

    Episodes are noisy, since tasks' weights are draws: from nothing they learn slowly.
    """
    queries = settings.episodes.query or EpisodeSettings().query
    return replace(
        settings,
        method="multi-task",
        amortization="gradient",
        theta="point",
        steps=0,
        train_steps=0,
        learn_tau=False,
        episodes=replace(settings.episodes, support=(0,), query=queries),
    )


def train(
    module: MetaModule,
    tasks: Sequence[Task],
    dev: Sequence[EpisodeRows],
    settings: MetaSettings,
    *,
    progress: bool = False,
) -> None:
    """Train a module in place; meta-dev episodes, if there are any, stop it early."""
    model = module.hierarchy.model
    if settings.checkpointing:
        model.backbone.enable_gradient_checkpointing()
    with tempfile.TemporaryDirectory(prefix="bayes-lora-") as folder, training(model.backbone):
        trainer = _make_trainer(module, tasks, dev, settings, Path(folder))
        bar = MetaProgress(module, "meta-fit", progress)
        trainer.add_callback(bar)
        with closing(bar):
            if dev:
                trainer.evaluate()  # where training starts may be hard to better
            trainer.train()
        trainer.load_best()


def default_meta_scorer(backbone: Backbone, method: str) -> str:
    """Name the scorer that is carried best to new labels, of those a method can have."""
    if backbone.kind is not BackboneKind.ENCODER:
        return "likelihood"
    return "similarity" if method == "abmll-published" else "discriminant"


def _check_tasks(tasks: Sequence[Task], dev: Sequence[Task]) -> None:
    if len(tasks) < 2:
        raise InputDataError(
            f"{len(tasks)} task(s) to train on: what tasks share can be learned from two or more."
        )
    check_disjoint(train=[task.name for task in tasks], dev=[task.name for task in dev])
    check_trainable(tasks)
    for task in (*tasks, *dev):
        _ = task.labels  # every row needs one


def _make_trainer(
    module: MetaModule,
    tasks: Sequence[Task],
    dev: Sequence[EpisodeRows],
    settings: MetaSettings,
    folder: Path,
) -> MetaTrainer:
    episodes = Episodes(
        tasks,
        Tokenized(module.hierarchy.model, tasks),
        settings.episodes,
        batch=settings.tasks_per_step,
        length=settings.tasks_per_step * settings.max_steps,
        seed=settings.seed,
    )
    arguments = _arguments(settings, folder, stops=bool(dev))
    _place(module, arguments.device)
    trainer = MetaTrainer(
        module,
        dev=dev,
        args=arguments,
        train_dataset=episodes,
        eval_dataset=[] if dev else None,
        data_collator=lambda batch: {"episodes": batch},
        optimizers=(_optimizer(module, settings), None),
        patience=settings.patience,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _place(module: MetaModule, device: torch.device) -> None:
    module.to(device)
    module.hierarchy.model.backbone.to(device)


def _arguments(settings: MetaSettings, folder: Path, *, stops: bool) -> TrainingArguments:
    return trainer_arguments(
        folder,
        settings.max_steps,
        per_device_train_batch_size=settings.tasks_per_step,
        eval_strategy="steps" if stops else "no",
        eval_steps=math.ceil(settings.max_steps / settings.evaluations),
        save_strategy="no",
        seed=settings.seed,
    )


def _optimizer(module: MetaModule, settings: MetaSettings) -> torch.optim.AdamW:
    """AdamW without decay (the priors do that); scales and the scorer's weights move faster."""
    fast = {id(p) for p in module.hierarchy.head.parameters()}
    fast |= {id(p) for name, p in module.named_parameters() if "log_scale" in name}
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in fast], "lr": settings.meta_learning_rate},
        {"params": [p for p in trained if id(p) in fast], "lr": settings.meta_scale_learning_rate},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)
