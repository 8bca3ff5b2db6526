"""How much flatter the population's probabilities are than those of a row whose level is known.

The population learned from the rows of all levels, so what is not known of a level is in its
probabilities already: they are marginal. Given the level, a row's logits are further apart, by a
factor ``(1 + a)^(1/2)`` (Zeger, Liang & Albert 1988, Biometrics 44, eq. 3.2 and 3.3). Without it, a
draw of the prior of an unknown level would add the spread a second time.
"""

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from bayes_lora.inference.mixed_model import Grouped

DRAWS = 32  # of every row's level, in pairs of opposite sign
MOST_ROWS = 1000
LARGEST = 10.0  # of the factor: tau of 5 and two options give 6


def attenuation(offsets: Tensor, own: Grouped, tau: float) -> float:
    """Find the factor whose probabilities, averaged over the prior, are the population's.

    Args:
        offsets: The population's logits, ``[N, options]``; minus infinity: no such option.
        own: The rows of one attribute; its levels are not looked at.
        tau: How far its levels differ.

    Returns:
        a, the factor's square less 1: these add up over attributes, as variances do.
    """
    some = slice(None, None, -(-len(offsets) // MOST_ROWS))
    offsets, features = offsets[some].double(), own.features[some].double()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(DRAWS // 2, len(offsets), len(own.shape), generator=generator).double()
    moved = torch.einsum("nok,mnk->mno", features, noise * tau * own.shape)
    moved = torch.cat([moved, -moved])
    wanted = offsets.softmax(-1)

    def divergence(factor: float) -> float:
        averaged = (factor * offsets + moved).softmax(-1).mean(0)
        return -float(torch.special.xlogy(wanted, averaged).sum())

    found = minimize_scalar(divergence, bounds=(1.0, LARGEST), method="bounded")
    return float(found.x) ** 2 - 1
