"""Members fitted side by side: a pass has rows of each, and each has rows of its own."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from bayes_lora.guides import MembersGuide
from bayes_lora.inference.optimizer import make_optimizer
from bayes_lora.inference.running import StateFolder
from bayes_lora.inference.settings import FitSettings
from bayes_lora.inference.svi import Collator, SVIModule, SVITrainer, svi_arguments
from bayes_lora.model import BayesianModel, parameter_name
from bayes_lora.scorers import LabelledRows, Row

Pair = tuple[Row, int]


class MembersModule(SVIModule):
    """The sum of the members' losses; its terms are their means.

    Args:
        model: The program; set to share rows among members.
        guide: The members.
    """

    def __init__(self, model: BayesianModel, guide: MembersGuide) -> None:
        super().__init__(model, guide, guide.members)
        self.members = guide.members

    def forward(
        self, labels: Tensor, levels: Tensor | None = None, **inputs: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss of as many rows of each member; arguments are ``SVIModule``'s."""
        return {"loss": super().forward(labels, levels, **inputs)["loss"] * self.members}


class MembersTrainer(SVITrainer):
    """The Trainer, with an order of rows for each member.

    Args:
        svi: What is trained.
        settings: Of the fit; member m has the seed ``settings.seed + m``.
        dev: Rows to evaluate on, or None.
    """

    def __init__(
        self, svi: MembersModule, settings: FitSettings, *, dev: LabelledRows | None, **kwargs: Any
    ) -> None:
        super().__init__(svi, dev=dev, **kwargs)
        self.seeds = range(settings.seed, settings.seed + svi.members)

    def get_train_dataloader(self) -> DataLoader[list[Pair]]:
        """Load a row of each member at a time."""
        rows = self.train_dataset
        assert isinstance(rows, RowsOfMembers)
        loader = DataLoader(
            rows,
            self._train_batch_size,
            sampler=Orders(len(rows), self.seeds),
            collate_fn=self.data_collator,
            drop_last=self.args.dataloader_drop_last,
        )
        return self.accelerator.prepare(loader)


class Orders(Sampler[tuple[int, ...]]):
    """Each member's own order of the training rows, another one in every epoch.

    Args:
        num_rows: How many rows.
        seeds: One a member.
    """

    def __init__(self, num_rows: int, seeds: Sequence[int]) -> None:
        self.num_rows, self.seeds, self.epoch = num_rows, seeds, 0

    def __len__(self) -> int:
        return self.num_rows

    def set_epoch(self, epoch: int) -> None:
        """Take the orders of an epoch, as the Trainer asks at its start."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Yield a row's place for every member."""
        generators = [np.random.default_rng([seed, self.epoch]) for seed in self.seeds]
        orders = [generator.permutation(self.num_rows).tolist() for generator in generators]
        yield from zip(*orders, strict=True)


class RowsOfMembers(Dataset[list[Pair]]):
    """Labelled rows, one of each member at a time.

    Args:
        rows: All of them.
    """

    def __init__(self, rows: LabelledRows) -> None:
        self.pairs = list(rows)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, places: tuple[int, ...]) -> list[Pair]:
        """Return the row at each member's place."""
        return [self.pairs[place] for place in places]


class MembersCollator(Collator):
    """Puts each member's rows next to one another, in a group."""

    def __call__(self, rows: Sequence[Sequence[Pair]]) -> dict[str, Tensor]:  # type: ignore[override]
        """Make the tensors of a minibatch."""
        return super().__call__([pair for member in zip(*rows, strict=True) for pair in member])


class Direction(TrainerCallback, ABC):
    """What is done to the members' gradients before a step.

    Args:
        guide: The members.
    """

    def __init__(self, guide: MembersGuide) -> None:
        self.guide = guide

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Change the gradients in place."""
        found = {name: self.guide.loc[parameter_name(name)].grad for name in self.guide.sites}
        with torch.no_grad():
            self.change({name: own for name, own in found.items() if own is not None})

    @abstractmethod
    def change(self, gradients: dict[str, Tensor]) -> None:
        """Change the sites' gradients, ``[M, *shape]``, in place."""


class Clipping(Direction):
    """Clips each member's gradient, as the Trainer would if it were alone.

    Args:
        guide: The members.
        most: The norm above which it is clipped.
    """

    def __init__(self, guide: MembersGuide, most: float) -> None:
        super().__init__(guide)
        self.most = most

    def change(self, gradients: dict[str, Tensor]) -> None:
        """Clip (``torch.nn.utils.clip_grad_norm_``, by member)."""
        norms = [own.flatten(1).norm(dim=1) for own in gradients.values()]
        factors = (self.most / (torch.stack(norms).norm(dim=0) + 1e-6)).clamp(max=1.0)
        for own in gradients.values():
            own.mul_(factors.view(-1, *[1] * (own.dim() - 1)))


def members_trainer(
    kind: type[MembersTrainer],
    model: BayesianModel,
    guide: MembersGuide,
    train: LabelledRows,
    settings: FitSettings,
    state: StateFolder,
    *,
    dev: LabelledRows | None,
    callbacks: Sequence[TrainerCallback] = (),
    **arguments: Any,
) -> MembersTrainer:
    """Make a trainer of members.

    Args:
        kind: Its class.
        model: The program.
        guide: The members, where they start.
        train: Training rows.
        settings: How; ``batch_size`` is the rows of each member, and ``draws`` is not looked at.
        state: A folder for checkpoints.
        dev: Rows for early stopping, or None.
        callbacks: What is done to gradients before they are clipped, and when to stop.
        arguments: Of the Trainer, where they differ from a fit's.
    """
    batch_size = min(settings.batch_size, len(train))
    own = {"max_grad_norm": 0.0, **arguments}  # clipped by member
    trainer_settings = svi_arguments(
        settings, batch_size, len(train), state, stops=dev is not None, **own
    )
    model.backbone.to(trainer_settings.device)
    return kind(
        MembersModule(model, guide),
        settings,
        dev=dev,
        args=trainer_settings,
        train_dataset=RowsOfMembers(train),
        eval_dataset=[] if dev else None,
        data_collator=MembersCollator(model, guide.members, settings.seed, levels=False),
        optimizers=(make_optimizer(model, guide, settings, trainer_settings.max_steps), None),
        callbacks=[*callbacks, Clipping(guide, settings.max_grad_norm)],
    )
