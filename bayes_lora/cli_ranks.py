"""The command ``ranks``."""

import argparse
from pathlib import Path

from bayes_lora.posterior import Posterior
from bayes_lora.ranks import effective_ranks, prune, rank_of
from bayes_lora.run_config import check_free

SHOWN = 4  # singular values of a layer


def run_ranks(arguments: argparse.Namespace) -> None:
    """Print each layer's effective rank, and write the pruned run if one is wanted."""
    if arguments.prune:
        check_free(Path(arguments.prune))
    posterior = Posterior.from_pretrained(arguments.run, backbone=arguments.model)
    for layer in effective_ranks(posterior):
        values = ", ".join(f"{value:.2g}" for value in layer.values[:SHOWN])
        more = ", ..." if len(layer.values) > SHOWN else ""
        print(
            f"{layer.layer}: rank {layer.effective} of {len(layer.values)} stands out "
            f"(singular values {values}{more}; noise {layer.noise:.2g})"
        )
    if arguments.prune:
        pruned = prune(posterior)
        pruned.save_pretrained(arguments.prune)
        print(f"Posterior of rank {rank_of(pruned)} written to {arguments.prune}")
