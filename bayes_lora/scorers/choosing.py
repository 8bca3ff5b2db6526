"""Which scorer, and which examples it can score."""

from collections.abc import Sequence
from dataclasses import replace

from bayes_lora.backbone import Backbone, BackboneKind
from bayes_lora.data import Example, Kind, Task, TaskSet
from bayes_lora.errors import ConfigError, InputDataError, UnsupportedError
from bayes_lora.scorers.base import Scorer
from bayes_lora.scorers.class_head import ClassHead
from bayes_lora.scorers.conjugate import Conjugate
from bayes_lora.scorers.discriminant import Discriminant
from bayes_lora.scorers.likelihood import LetterLikelihood, Likelihood
from bayes_lora.scorers.model_head import ModelHead, class_labels
from bayes_lora.scorers.similarity import Similarity

SCORERS: dict[str, type[Scorer]] = {
    "class-head": ClassHead,
    "model-head": ModelHead,
    "similarity": Similarity,
    "conjugate": Conjugate,
    "discriminant": Discriminant,
    "likelihood": Likelihood,
    "likelihood-letter": LetterLikelihood,
}


def default_scorer(backbone: Backbone, tasks: Sequence[Task], *, zero_shot: bool = False) -> str:
    """Name the scorer for a backbone and the tasks it is fitted to.

    Returns:
        ``model-head`` for a PEFT model that classifies; ``class-head`` where all tasks share one
        label set; else, and before any fit, what scores options by their text: ``similarity`` for
        an encoder, ``likelihood`` for a language model.
    """
    if backbone.class_labels:
        return "model-head"
    seq2seq = backbone.kind is BackboneKind.ENCODER_DECODER
    if not zero_shot and not seq2seq and _label_sets(tasks) == 1:
        return "class-head"
    return "similarity" if backbone.kind is BackboneKind.ENCODER else "likelihood"


def _label_sets(tasks: Sequence[Task]) -> int:
    """Count the different label sets; a multiple-choice task counts as many."""
    if any(task.kind is Kind.MULTIPLE_CHOICE for task in tasks):
        return 2
    return len({task.options for task in tasks})


def make_scorer(name: str, backbone: Backbone, tasks: Sequence[Task]) -> Scorer:
    """Make the scorer of a name in ``SCORERS``.

    Args:
        name: Of the scorer.
        backbone: What it runs on.
        tasks: What a class head takes its labels from.

    Raises:
        ConfigError: There is no such scorer.
        UnsupportedError: It does not fit the backbone.
        InputDataError: A class head is asked for tasks without one common label set.
    """
    if name not in SCORERS:
        raise ConfigError(f"There is no scorer {name!r}: choose from {', '.join(SCORERS)}.")
    if name in ("likelihood", "likelihood-letter"):
        _check_language_model(name, backbone)
        return Likelihood() if name == "likelihood" else LetterLikelihood()
    if backbone.kind is BackboneKind.ENCODER_DECODER:
        raise UnsupportedError(
            f"The scorer {name!r} needs an encoder or a decoder, and backbone "
            f"{backbone.name!r} is an encoder-decoder: use likelihood or likelihood-letter."
        )
    kind = SCORERS[name]
    if issubclass(kind, Similarity):
        return kind(backbone.pooling)
    if name == "model-head":
        class_labels(backbone)
        return ModelHead(_common_options(tasks), backbone.pooling)
    return ClassHead(_common_options(tasks), backbone.pooling)


def _check_language_model(scorer: str, backbone: Backbone) -> None:
    if backbone.language_model is None:
        raise UnsupportedError(
            f"The scorer {scorer!r} needs a language model with its head, and backbone "
            f"{backbone.name!r} is none: use similarity or class-head."
        )
    if backbone.kind is BackboneKind.ENCODER_DECODER:
        start = getattr(backbone.model.config, "decoder_start_token_id", None)
        if start is None:
            raise UnsupportedError(
                f"The configuration of backbone {backbone.name!r} has no decoder_start_token_id, "
                "so that no option can be decoded: add it to config.json."
            )


def _common_options(tasks: Sequence[Task]) -> tuple[str, ...]:
    first = tasks[0].options
    for task in tasks[1:]:
        if task.options != first:
            raise InputDataError(
                f"A class head needs one label set, and {tasks[0].name!r} and {task.name!r} "
                f"differ: {list(first)}, {list(task.options)}. Use a scorer that reads options: "
                "similarity for encoders, likelihood for language models."
            )
    return first


def keep_scorable(
    tasks: TaskSet, scorer: Scorer, backbone: Backbone, *, strict: bool = False
) -> TaskSet:
    """Leave out the rows a scorer cannot score, each task's counted in its warnings.

    Rows with options that look the same to the model stay, and are counted too.

    Args:
        tasks: What was read.
        scorer: The scorer.
        backbone: What it runs on.
        strict: Refuse instead of leaving out.

    Raises:
        InputDataError: A row cannot be scored, and ``strict``; or no row of any task can.
    """
    problems = {
        options: scorer.problem(backbone, options)
        for options in dict.fromkeys(e.options for task in tasks for e in task.examples)
    }
    kept, skipped = [], []
    for task in tasks:
        bad = [example for example in task.examples if problems[example.options]]
        if bad and strict:
            raise InputDataError(f"{bad[0].where}: {problems[bad[0].options]}")
        if len(bad) < len(task):
            kept.append(_warned(_without(task, bad, problems), scorer, backbone))
        else:
            skipped.append(f"{task.name}: skipped: {problems[bad[0].options]}")
    if not kept:
        raise InputDataError(f"No row can be scored. {skipped[0]}")
    return TaskSet(tuple(kept), (*tasks.warnings, *skipped))


def _without(
    task: Task, bad: Sequence[Example], problems: dict[tuple[str, ...], str | None]
) -> Task:
    if not bad:
        return task
    warning = (
        f"{len(bad)} of {len(task)} rows cannot be scored and are left out; the first is "
        f"{bad[0].where}: {problems[bad[0].options]}"
    )
    examples = tuple(example for example in task.examples if not problems[example.options])
    return replace(task, examples=examples, warnings=(*task.warnings, warning))


def _warned(task: Task, scorer: Scorer, backbone: Backbone) -> Task:
    sets = dict.fromkeys(example.options for example in task.examples)
    alike = {options for options in sets if scorer.reads_alike(backbone, options)}
    found = [example for example in task.examples if example.options in alike]
    if not found:
        return task
    warning = (
        f"{len(found)} of {len(task)} rows have options that this model reads alike, so that it "
        f"gives them one probability; the first is {found[0].where}: {list(found[0].options)}"
    )
    return replace(task, warnings=(*task.warnings, warning))


def check_scorable(scorer: Scorer, backbone: Backbone, examples: Sequence[Example]) -> None:
    """Check that every example can be scored.

    Raises:
        InputDataError: One cannot; it is named.
    """
    first = {example.options: example for example in reversed(examples)}
    for options, example in first.items():
        if len(set(options)) < max(2, len(options)):
            raise InputDataError(f"{example.where}: two options or more that differ are needed")
        problem = scorer.problem(backbone, options)
        if problem:
            raise InputDataError(f"{example.where}: {problem}")
