"""Do levels harm that tell little or nothing? One population, levels of ever more shuffled rows."""

from dataclasses import replace

from bayes_lora import Posterior
from bayes_lora.data import Task
from bayes_lora.inference.fit import labelled_rows
from bayes_lora.inference.levels import fit_levels

SHARES = (0.0, 0.1, 0.3, 1.0)  # of the training rows, shuffled
SEED = 0
SIZES = {"fdu-mtl": 400}  # rows of train, of a domain; of the other sets all


def refitted(fitted: Posterior, task: Task) -> Posterior:
    """Keep a fit's population, and fit the levels around it to shuffled attributes.

    Args:
        fitted: What `fit` gives of the rows as they are.
        task: The same rows, shuffled: every level has as many of them as before, so that the
            model is the same but for how many coordinates its levels have.
    """
    fresh = replace(fitted.config, coordinates={})
    model, guide = fresh.build(fitted.model.backbone)
    state = fitted.guide.state_dict()
    population = {name: own for name, own in state.items() if not name.startswith("level_guides.")}
    guide.load_state_dict(guide.state_dict() | population)
    model.priors.load_state_dict(fitted.model.priors.state_dict())
    fit_levels(model, guide, labelled_rows(model, [task]), seed=fresh.seed)
    widths = {name: effect.width for name, effect in model.by_level.items()}
    return Posterior(model, guide, replace(fresh, coordinates=widths))
