"""Episodes as the scorer's rows, drawn without end and the same for the same seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from bayes_lora.data import Example, Kind, Task, sample_episode
from bayes_lora.data.task import labels_of
from bayes_lora.meta.settings import EpisodeSettings
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows, Row

DEV_EPISODES = 2  # of each meta-dev task and support size
DEV_QUERIES = 60  # in each
# Where there are one or two tasks: 60 of each could not tell tau 0.05 from 0.1 (docs/defaults.md).
DEV_QUERIES_OF_FEW = 150


@dataclass(frozen=True)
class EpisodeRows:
    """One task's support and queries, as the scorer's rows."""

    task: str
    support: LabelledRows
    query: LabelledRows


class Tokenized:
    """The rows of all tasks' examples, each made once.

    Args:
        model: Its scorer makes them.
        tasks: Tasks whose examples will be asked for.
    """

    def __init__(self, model: BayesianModel, tasks: Sequence[Task]) -> None:
        self._rows: dict[Example, Row] = {}
        for task in tasks:
            rows = model.scorer.rows(model.backbone, task.examples)
            self._rows |= dict(zip(task.examples, rows, strict=True))

    def labelled(self, examples: Sequence[Example]) -> LabelledRows:
        """The rows of labelled examples."""
        return LabelledRows([self._rows[example] for example in examples], labels_of(examples))


class Episodes(Dataset[EpisodeRows]):
    """Item i is an episode that depends on the seed and i alone.

    Every task comes once before one comes twice, and the T episodes of a batch have equal sizes.

    Args:
        tasks: Tasks to draw from.
        rows: Their rows.
        settings: What an episode is.
        batch: T.
        length: How many there are.
        seed: Of everything drawn.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        rows: Tokenized,
        settings: EpisodeSettings,
        *,
        batch: int,
        length: int,
        seed: int,
    ) -> None:
        self.tasks = tasks
        self.rows = rows
        self.settings = settings
        self.batch = batch
        self.length = length
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, item: int) -> EpisodeRows:
        of_round = np.random.default_rng([self.seed, 0, item // len(self.tasks)])
        task = self.tasks[of_round.permutation(len(self.tasks))[item % len(self.tasks)]]
        of_batch = np.random.default_rng([self.seed, 1, item // self.batch])
        size = int(of_batch.choice(self.settings.support))
        return self.make(task, size, np.random.default_rng([self.seed, 2, item]))

    def make(self, task: Task, size: int, rng: np.random.Generator) -> EpisodeRows:
        """Draw an episode of a task."""
        per_class = self.settings.per_class and task.kind is Kind.FIXED_LABELS
        episode = sample_episode(
            task, support=size, query=self.settings.query, per_class=per_class, rng=rng
        )
        support = self.rows.labelled(episode.support)
        query = support if not self.settings.query else self.rows.labelled(episode.query)
        return EpisodeRows(task.name, support, query)


def development_episodes(
    model: BayesianModel, tasks: Iterable[Task], settings: EpisodeSettings
) -> list[EpisodeRows]:
    """Draw the episodes that meta-dev tasks are judged by: the same whatever is judged."""
    tasks = tuple(tasks)
    rows = Tokenized(model, tasks)
    sizes = list(dict.fromkeys(settings.support))
    asked = replace(settings, query=DEV_QUERIES if len(tasks) > 2 else DEV_QUERIES_OF_FEW)
    episodes = Episodes(tasks, rows, asked, batch=1, length=0, seed=0)
    return [
        episodes.make(task, size, np.random.default_rng([number, size]))
        for task in tasks
        for size in sizes
        for number in range(DEV_EPISODES)
    ]
