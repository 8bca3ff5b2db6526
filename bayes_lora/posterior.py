"""A fitted posterior with its backbone: draws, predicts, saves, loads."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bayes_lora.backbone import Backbone
from bayes_lora.data import Example, level_of
from bayes_lora.effects import Normal
from bayes_lora.errors import ConfigError
from bayes_lora.files import atomic_folder
from bayes_lora.guides import MLE, Guide, sample
from bayes_lora.level_draws import FoundLevels, Unknown, draw_levels, find_levels
from bayes_lora.linearised import DRAWS as LINEARISED_DRAWS
from bayes_lora.linearised import check_linearisable, predict_linearised
from bayes_lora.marginal import around
from bayes_lora.model import BayesianModel
from bayes_lora.predict import Predictions, joined, predict, reordered
from bayes_lora.run_config import (
    CONFIG_FILE,
    PosteriorConfig,
    check_free,
    describe,
    load_state,
    read_config,
)
from bayes_lora.scorers import ClassHead, Row, check_scorable, make_scorer

WEIGHTS_FILE = "posterior.safetensors"
DRAWS = 6  # of weights; docs/defaults.md says what fewer and more of them are worth


class Posterior:
    """A fitted guide, the program it belongs to, and the backbone they run on.

    Args:
        model: The program.
        guide: The fitted guide.
        config: What was fitted.
        coarse: The population after a separation stage, which predicts where a row has no known
            level.
    """

    def __init__(
        self,
        model: BayesianModel,
        guide: Guide,
        config: PosteriorConfig,
        coarse: Guide | None = None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.config = config
        self.coarse = coarse

    @classmethod
    def pretrained(cls, backbone: Backbone, scorer: str) -> "Posterior":
        """Predict with a backbone as it is, nothing fitted: the floor of every comparison.

        Args:
            backbone: The pretrained model.
            scorer: One that reads options: ``similarity``, ``likelihood``, ``likelihood-letter``.

        Raises:
            ConfigError: The scorer is a class head, which knows nothing before a fit, or unknown.
            UnsupportedError: The scorer does not fit the backbone.
        """
        if scorer == "class-head":
            raise ConfigError(
                "A class head knows nothing before it is fitted: use similarity for an encoder, "
                "likelihood for a language model."
            )
        config = PosteriorConfig(
            scorer=make_scorer(scorer, backbone, ()),
            guide=MLE(),
            effects=(),
            head_prior=Normal(),
            label_sets=(),
            num_rows=1,
            kl_weight=1.0,
            seed=0,
            fit={},
        )
        return cls(*config.build(backbone), config)

    @property
    def options(self) -> tuple[str, ...]:
        """The labels it was fitted to.

        Raises:
            ConfigError: It was fitted to no label set, or to several: its tasks say what to choose
                from.
        """
        if len(self.config.label_sets) != 1:
            raise ConfigError(
                f"This posterior was fitted to {len(self.config.label_sets)} label sets, so "
                "options must come with the examples."
            )
        return self.config.label_sets[0]

    @property
    def reads_options(self) -> bool:
        """Whether it can score any options, and not only those of its class head."""
        return not isinstance(self.config.scorer, ClassHead)

    @property
    def linearises(self) -> bool:
        """Whether it predicts with the linearised model where ``predict`` is not told how."""
        class_head = not self.reads_options and self.model.backbone.row_aligned
        return not self.model.by_level and self.config.guide.linearises(class_head)

    def draw(self, num_draws: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Draw all weights but those of levels from the posterior.

        Args:
            num_draws: How many; 0 gives the posterior mean, as one entry.
            seed: Draw i depends on the seed and i alone.

        Returns:
            Site name to values, ``[num_draws, *shape]``, float32.

        Raises:
            ConfigError: ``num_draws`` is negative.
        """
        return _draw(self.guide, num_draws, seed)

    def predict(
        self,
        examples: Sequence[Example],
        *,
        draws: int | None = None,
        seed: int = 0,
        tokens_per_pass: int | None = None,
        keep_draws: bool = False,
        progress: Callable[[int], object] = lambda rows: None,
        unknown: str = Unknown.PRIOR,
        linearised: bool | None = None,
    ) -> Predictions:
        """Give probabilities of each example's options, averaged over posterior draws.

        A draw of weights is one coherent set for the whole data set, so results do not depend on
        the batches or the order of the examples. Where neither ``draws`` nor ``linearised`` is
        given, it is what was found best (docs/defaults.md): ``linearises`` says which.

        Args:
            examples: Inputs with their options; at least one (``unlabelled`` makes them of texts).
            draws: Draws to average over; 0 predicts with the posterior mean. No more are taken
                than differ: one of a point, each member of an ensemble. None: 6 of weights, or
                256 of logits where predictions are linearised.
            seed: Of the draws.
            tokens_per_pass: Most tokens in one forward pass; None for the device's default.
            keep_draws: Also return each draw's probabilities.
            progress: Called with the number of rows done, after each chunk of rows.
            unknown: What predicts for a level that training did not see, or a missing one:
                ``prior``, the population's probabilities, which are averages over levels, from
                draws of the levels' prior, so that what is not known of the level counts as such
                (``mutual_information``, ``per_draw``); ``population``, none of its own (M2A's
                dagger); ``average``, the mean of the levels there are.
            linearised: Draw each row's logits from the Gaussian that they are where they are
                linear in the weights, and not weights (``predict_linearised``). None: no where
                ``draws`` are given, else what ``linearises`` says.

        Raises:
            ConfigError: No examples, a negative number of draws, or no such ``unknown``.
            UnsupportedError: The guide, or a run with attributes, cannot be linearised.
            InputDataError: The options of one cannot be scored.
        """
        if not examples:
            raise ConfigError("Prediction needs at least one example.")
        check_scorable(self.config.scorer, self.model.backbone, examples)
        if linearised is None:
            linearised = draws is None and self.linearises
        elif linearised:
            check_linearisable(self.model)
        wanted = (LINEARISED_DRAWS if linearised else DRAWS) if draws is None else draws
        num_draws = min(wanted, self.guide.most_draws or wanted)
        asked = self._unknown(unknown, num_draws)
        scored = self.config.scorer.rows(self.model.backbone, examples)
        if linearised and num_draws > 0 and self.guide.random:
            return predict_linearised(
                self.model,
                self.guide,
                scored,
                draws=num_draws,
                seed=seed,
                tokens_per_pass=tokens_per_pass,
                keep_draws=keep_draws,
                progress=progress,
            )
        run = partial(
            self._predict, num_draws=num_draws, seed=seed, tokens_per_pass=tokens_per_pass
        )
        if asked is Unknown.PRIOR:
            return self._predict_unknown(examples, scored, run, keep_draws, progress)
        return run(scored, find_levels(self.model, examples, asked), keep_draws, progress)

    def _predict_unknown(
        self,
        examples: Sequence[Example],
        scored: Sequence[Row],
        run: Callable[..., Predictions],
        keep_draws: bool,
        progress: Callable[[int], object],
    ) -> Predictions:
        """Predict with known levels, and put what an unknown one may be around the population."""
        found = find_levels(self.model, examples, Unknown.POPULATION)
        predicted = run(scored, found, keep_draws, progress)
        unknown = [i for i, own in enumerate(found.rows) if min(own, default=0) < 0]
        if not unknown:
            return predicted
        found = find_levels(self.model, [examples[i] for i in unknown], Unknown.PRIOR)
        drawn = run([scored[i] for i in unknown], found, True, lambda rows: None)
        return around(predicted, unknown, drawn)

    def _predict(
        self,
        scored: Sequence[Row],
        found: FoundLevels,
        keep_draws: bool,
        progress: Callable[[int], object],
        *,
        num_draws: int,
        seed: int,
        tokens_per_pass: int | None,
    ) -> Predictions:
        """Predict rows with the levels that were found."""
        rows = [replace(row, levels=own) for row, own in zip(scored, found.rows, strict=True)]
        levels = draw_levels(self.guide, self.model, found, num_draws, seed)
        parts, order = [], []
        for guide, places in self._who_predicts(rows):
            parts.append(
                predict(
                    self.model,
                    _draw(guide, num_draws, seed),
                    [rows[place] for place in places],
                    tokens_per_pass=tokens_per_pass,
                    keep_draws=keep_draws,
                    progress=progress,
                    levels=levels,
                )
            )
            order += places
        return replace(reordered(joined(parts), order), num_draws=num_draws)

    def _who_predicts(self, rows: Sequence[Row]) -> list[tuple[Guide, list[int]]]:
        """Give rows without any level to the separated population, if there is one."""
        if self.coarse is None:
            return [(self.guide, list(range(len(rows))))]
        alone = [i for i, row in enumerate(rows) if max(row.levels) < 0]
        others = [i for i, row in enumerate(rows) if max(row.levels) >= 0]
        return [(g, own) for g, own in ((self.guide, others), (self.coarse, alone)) if own]

    def level_counts(self, examples: Sequence[Example]) -> list[dict[str, int]]:
        """Count, by attribute, the training rows that each example's levels had; 0: unseen."""
        known = [effect.levels for effect in self.model.by_level.values()]
        return [
            {own.attribute: own.count(level_of(example, own.attribute)) for own in known}
            for example in examples
        ]

    def _unknown(self, unknown: str, num_draws: int) -> Unknown:
        """Read ``unknown``; without draws, and under a point, the prior is the population."""
        if unknown not in list(Unknown):
            raise ConfigError(
                f"There is no unknown {unknown!r}: choose from {', '.join(list(Unknown))}."
            )
        drawn = num_draws > 0 and all(effect.pooled for effect in self.model.by_level.values())
        return Unknown.POPULATION if unknown == Unknown.PRIOR and not drawn else Unknown(unknown)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the posterior to a new folder, all of it or nothing.

        Raises:
            RunFolderError: The folder exists and is not empty, or cannot be written.
        """
        folder = Path(folder)
        check_free(folder)
        with atomic_folder(folder) as unfinished:
            state = {f"guide.{k}": v for k, v in self.guide.state_dict().items()}
            state |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
            if self.coarse is not None:
                state |= {f"coarse.{k}": v for k, v in self.coarse.state_dict().items()}
            state = {k: v.contiguous().cpu() for k, v in state.items()}
            safetensors.torch.save_file(state, unfinished / WEIGHTS_FILE)
            self.model.backbone.save(unfinished)
            (unfinished / CONFIG_FILE).write_text(
                json.dumps(describe(self.config, self.model.backbone), indent=2) + "\n"
            )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        backbone: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> "Posterior":
        """Load a posterior and the backbone it was fitted on.

        Args:
            folder: Where ``save_pretrained`` wrote it.
            backbone: The backbone's name or path, if it is not where it was at the fit.
            dtype: Of the frozen weights; None for the one of the fit.
            device: Where to run; None for a GPU if there is one.

        Raises:
            RunFolderError: The folder holds no posterior, a broken one, or one of another backbone.
        """
        folder = Path(folder)
        config, recorded = read_config(folder / CONFIG_FILE)
        loaded = recorded.load(folder, name=backbone, dtype=dtype, device=device)
        model, guide = config.build(loaded)
        coarse = copy.deepcopy(guide) if config.separated else None
        modules: dict[str, nn.Module] = {"guide.": guide, "model.": model}
        load_state(folder / WEIGHTS_FILE, modules | ({"coarse.": coarse} if coarse else {}))
        return cls(model, guide, config, coarse)


def _draw(guide: Guide, num_draws: int, seed: int) -> dict[str, Tensor]:
    if num_draws < 0:
        raise ConfigError(f"The number of draws cannot be negative: {num_draws}.")
    if num_draws == 0:
        return {name: value.unsqueeze(0) for name, value in guide.mean().items()}
    return sample(guide, num_draws, seed)
