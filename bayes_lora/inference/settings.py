"""How a guide is fitted."""

from dataclasses import asdict, dataclass

from bayes_lora.errors import check_positive, check_seed

SCALE_RATE = 5e-3  # of log scales, in short fits
FARTHEST = 1.0  # that log scales move in a long one, in nats


@dataclass(frozen=True)
class FitSettings:
    """How a guide is fitted. The defaults are justified in docs/defaults.md.

    Args:
        epochs: Passes over the training rows; None for 20, or as many as make 150 steps.
        max_steps: Optimizer steps; overrides ``epochs`` when given. 0: the posterior as it starts.
        batch_size: Rows in one forward pass (rounded down to a multiple of ``draws``).
        accumulate: Forward passes in one optimizer step.
        draws: Independent posterior draws in one pass, G: each serves batch_size / G rows.
        learning_rate: Of locations (AdamW without weight decay, linear decay; a fifth of a
            short fit's steps, 20 at most, warm up).
        scale_learning_rate: Of log scales, of guide and learned priors alike. None: 5e-3, or in
            fits of more than 400 steps so much less that scales move by no more than a factor e.
        max_grad_norm: Where the gradient of the loss per row is clipped.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        patience: With dev data: evaluations without a better dev NLL before stopping; one an
            epoch, or every 10 steps where epochs are shorter.
        seed: Of initial values, batches and draws.
    """

    epochs: float | None = None
    max_steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    draws: int = 8
    learning_rate: float = 1e-3
    scale_learning_rate: float | None = None
    max_grad_norm: float = 1.0
    checkpointing: bool = False
    patience: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            free = name in ("seed", "checkpointing") or (name, value) == ("max_steps", 0)
            if not free and value is not None:
                check_positive(name, value)
        check_seed(self.seed)

    def length(self, steps_in_epoch: int) -> int:
        """Return the number of optimizer steps."""
        if self.max_steps is not None:
            return self.max_steps
        if self.epochs is not None:
            return max(1, round(self.epochs * steps_in_epoch))
        return max(20 * steps_in_epoch, 150)

    def scale_rate(self, steps: int) -> float:
        """Return the learning rate of log scales in a fit of so many steps.

        Adam moves a log scale by up to the rate a step, which decays to zero. Most weights say
        little of any label, so that nothing but the prior pulls at theirs: they grow for as long
        as a fit takes, until their noise drowns what was learned.
        """
        return self.scale_learning_rate or min(SCALE_RATE, 2 * FARTHEST / steps)
