"""What holds while a backbone's adapters are trained, and is undone afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from transformers import TrainingArguments

from bayes_lora.backbone import Backbone


@contextmanager
def training(backbone: Backbone) -> Iterator[None]:
    """Switch adapter dropout on, and Pyro's checks of every entry of every draw off.

    The Trainer seeds the global generators; afterwards they are as the caller left them.
    """
    states = random.getstate(), np.random.get_state()
    backbone.train()
    try:
        with torch.random.fork_rng(), pyro.validation_enabled(False):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        backbone.eval()


def trainer_arguments(folder: Path, max_steps: int, **own: Any) -> TrainingArguments:
    """Make the Trainer's arguments, those that all our fits share and some of a fit's own.

    Args:
        folder: For its checkpoints.
        max_steps: Optimizer steps; a fifth of them, 20 at most, warm up.
        own: What differs.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=max_steps,
        dataloader_pin_memory=False,  # batches are made on the device
        remove_unused_columns=False,
        lr_scheduler_type="linear",
        warmup_steps=min(20, max_steps // 5),
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,  # our own progress shows more
        use_cpu=not torch.cuda.is_available(),
        **own,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # DataParallel would not copy the backbone
    return arguments
