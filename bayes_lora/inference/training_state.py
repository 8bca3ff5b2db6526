"""What holds while a backbone's adapters are trained, and is undone afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch

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
