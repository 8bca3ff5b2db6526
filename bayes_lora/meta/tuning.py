"""How to adapt to new tasks, chosen on meta-dev tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from bayes_lora.data import Task
from bayes_lora.errors import ConfigError
from bayes_lora.meta.learned import MetaPosterior

STEPS = (0, 4, 15)
TAUS = (0.02, 0.05, 0.1, 0.2)


def tuned(
    learned: MetaPosterior,
    dev: Iterable[Task],
    *,
    scorers: Sequence[str] = (),
    steps: Sequence[int] = STEPS,
    taus: Sequence[float] = TAUS,
) -> MetaPosterior:
    """Choose the steps on a new task, tau and the scorer by the NLL of meta-dev tasks.

    Nothing is trained anew. Steps come first, for as long as more of them do better; then tau at
    these steps. The scorer is kept unless another is better beyond chance.

    Args:
        learned: A meta-fit by ``abmll`` and ``gradient``, whose tau is not learned.
        dev: Its meta-dev tasks; never those it is to be judged on.
        scorers: Others to try.
        steps: To choose from, fewest first.
        taus: To choose from, beside the one it has; none: it keeps that.

    Raises:
        ConfigError: There is no meta-dev task, or tau was learned.
    """
    dev, settings = tuple(dev), learned.config.settings
    if not dev:
        raise ConfigError("There is no meta-dev task to choose by: give some.")
    if settings.learn_tau:
        raise ConfigError("tau was learned, so that it cannot be chosen.")
    best = _adapted_best(learned, dev, None, steps, taus)
    for scorer in scorers:
        other = _adapted_best(learned, dev, scorer, steps, taus)
        best = other if surely_better(other, best) else best
    return best


def _adapted_best(
    learned: MetaPosterior,
    dev: Sequence[Task],
    scorer: str | None,
    steps: Sequence[int],
    taus: Sequence[float],
) -> MetaPosterior:
    settings = learned.config.settings

    def way(number: int, tau: float) -> MetaPosterior:
        return learned.revised(replace(settings, steps=number, tau=tau), dev=dev, scorer=scorer)

    best = last_better(way(number, settings.tau) for number in steps)
    chosen = best.config.settings.gradient_steps
    return min([best, *(way(chosen, t) for t in taus if t != settings.tau)], key=on_dev)


def on_dev(learned: MetaPosterior) -> float:
    """What choices go by: the NLL of meta-dev tasks."""
    assert learned.dev_nll is not None, "choices need meta-dev tasks"
    return learned.dev_nll


def last_better(tried: Iterable[MetaPosterior]) -> MetaPosterior:
    """Go on for as long as the meta-dev NLL gets better; give the best."""
    rest = iter(tried)
    best = next(rest)
    for one in rest:
        if on_dev(one) >= on_dev(best):
            break
        best = one
    return best


def surely_better(one: MetaPosterior, other: MetaPosterior) -> bool:
    """Say whether its NLL on meta-dev tasks is lower by more than a standard error.

    Meta-dev tasks are few, and the least mean of several is often one of chance: what is simpler,
    or known to be good, is kept unless the others are better beyond it (Breiman et al. 1984,
    Classification and Regression Trees, section 3.4.3).
    """
    gained = [other.dev_nlls[task] - nll for task, nll in one.dev_nlls.items()]
    error = float(np.std(gained, ddof=1)) / len(gained) ** 0.5 if len(gained) > 1 else 0.0
    return float(np.mean(gained)) > error
