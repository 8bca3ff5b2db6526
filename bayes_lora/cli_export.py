"""The command ``export``."""

import argparse
from pathlib import Path

from bayes_lora.errors import check_seed
from bayes_lora.files import atomic_folder
from bayes_lora.merging import merged
from bayes_lora.peft_export import export_peft
from bayes_lora.posterior import Posterior
from bayes_lora.run_config import check_free


def run_export(arguments: argparse.Namespace) -> None:
    """Write the posterior mean, or a draw, for others to load."""
    check_seed(arguments.seed)
    out = Path(arguments.peft or arguments.merged)
    check_free(out)
    posterior = Posterior.from_pretrained(arguments.run, backbone=arguments.model)
    if arguments.peft:
        export_peft(posterior, out, draw=arguments.draw, seed=arguments.seed)
    else:
        model = merged(posterior, arguments.draw, seed=arguments.seed)
        with atomic_folder(out) as unfinished:
            model.save_pretrained(unfinished)
            posterior.model.backbone.tokenizer.save_pretrained(unfinished)
    print(f"{'PEFT checkpoint' if arguments.peft else 'Model'} written to {out}")
