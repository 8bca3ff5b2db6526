"""Labelled text in: the task a model is fitted or tested on, its readers, and a generated one."""

from bayes_lora.data.attributes import Levels, check_attributes, level_of, levels_of
from bayes_lora.data.episodes import (
    Episode,
    Overlap,
    cap_queries,
    check_disjoint,
    remove_overlap,
    remove_repeats,
    sample_episode,
    sample_support,
    split_tasks,
)
from bayes_lora.data.generated import generate, generate_tasks, generate_with_probabilities
from bayes_lora.data.inspection import inspect
from bayes_lora.data.reviews import generate_reviews
from bayes_lora.data.spec import read
from bayes_lora.data.tabular import read_tabular, write_csv
from bayes_lora.data.task import Example, Kind, Task, TaskSet, TaskSplits, unlabelled

__all__ = [
    "Episode",
    "Example",
    "Kind",
    "Levels",
    "Overlap",
    "Task",
    "TaskSet",
    "TaskSplits",
    "cap_queries",
    "check_attributes",
    "check_disjoint",
    "generate",
    "generate_reviews",
    "generate_tasks",
    "generate_with_probabilities",
    "inspect",
    "level_of",
    "levels_of",
    "read",
    "read_tabular",
    "remove_overlap",
    "remove_repeats",
    "sample_episode",
    "sample_support",
    "split_tasks",
    "unlabelled",
    "write_csv",
]
