"""A backbone and a scorer of options so linear that a level's weights move logits by algebra.

The logits of a row are ``mean over tokens of (W0 + W + W of the row's level) e(token)``, times
one vector an option: linear in the weights, so their derivatives are known without a pass.
"""

import numpy as np
import torch
from linear_gaussian import D_IN, D_OUT, SITE, FixedHead, FullUpdate, LinearModel
from torch import Tensor

from bayes_lora.backbone import Backbone
from bayes_lora.data import Levels, unlabelled
from bayes_lora.effects import Effect, Normal, Pooled, Prior
from bayes_lora.guides import MeanFieldGuide
from bayes_lora.model import BayesianModel
from bayes_lora.scorers import LabelledRows
from bayes_lora.scorers.pooled import pool

BY_USER = "by user"
POOLED = Pooled()
WIDTH = D_IN * D_OUT  # weights of a level
POPULATION = {SITE: torch.zeros(1, 1, D_OUT, D_IN, dtype=torch.float64)}


class LinearScorer(FixedHead):
    """The pooled state's projections are the options' logits; no weights of its own."""

    def __init__(self, directions: Tensor) -> None:
        super().__init__(tuple(f"option {i}" for i in range(directions.shape[1])), "mean")
        object.__setattr__(self, "directions", directions)

    directions: Tensor

    def of_state(self, state: Tensor) -> Tensor:
        return state @ self.directions


class LevelProblem:
    """Rows of users, the program, and the derivatives in closed form; all in float64.

    Args:
        rows: How many, of equally many users each.
        users: How many.
        tokenizer: Makes tokens of the rows' words.
        options: Of each row.
        prior: Of the users' levels.
        spread: Standard deviation of the users' true weights.
        seed: Of everything.
    """

    def __init__(
        self,
        rows: int,
        users: int,
        tokenizer: object,
        *,
        options: int = 3,
        prior: Prior = POOLED,
        spread: float = 1.0,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.backbone = Backbone(
            LinearModel().double(), tokenizer, name="linear", fingerprint="", targets=["lin"]
        )
        scorer = LinearScorer(torch.randn(D_OUT, options).double())
        names = tuple(f"user {i:02}" for i in range(users))
        self.users = torch.arange(rows) % users
        counts = tuple(self.users.bincount(minlength=users).tolist())
        self.model = BayesianModel(
            self.backbone,
            [
                Effect("population", FullUpdate(), Normal()),
                Effect(BY_USER, FullUpdate(), prior, by="user"),
            ],
            scorer,
            head_prior=Normal(),
            num_rows=rows,
            levels={BY_USER: Levels("user", names, counts)},
        ).double()
        words = np.random.default_rng(seed).integers(65, 90, (rows, 3))
        texts = [" ".join(chr(letter) for letter in row) for row in words]
        self.rows = scorer.rows(self.backbone, unlabelled(texts, scorer.options))
        self.batch = scorer.collate(self.backbone, self.rows)
        self.offsets, self.design = self._closed_form(scorer)
        truth = spread * torch.randn(users, WIDTH).double()
        self.truth = truth - truth.mean(0)  # the population has learned what all have in common
        self.labels = torch.multinomial(self.logits_at(self.truth).softmax(-1), 1)[:, 0]

    def logits_at(self, weights: Tensor) -> Tensor:
        """Logits under weights of every user, ``[users, WIDTH]``."""
        return self.offsets + torch.einsum("now,nw->no", self.design, weights[self.users])

    def data(self) -> LabelledRows:
        rows = [
            row.__class__(row.ids, levels=(int(user),))
            for row, user in zip(self.rows, self.users, strict=True)
        ]
        return LabelledRows(rows, self.labels.tolist())

    def guide(self) -> MeanFieldGuide:
        """A guide whose population is known to be the pretrained weights."""
        return MeanFieldGuide(self.model, initial_scale=1e-6).double()

    def _closed_form(self, scorer: LinearScorer) -> tuple[Tensor, Tensor]:
        """Logits at the population ``[N, options]``, derivatives ``[N, options, WIDTH]``."""
        with torch.no_grad():
            tokens = self.backbone.model.embed(self.batch["input_ids_0"])
            embedded = pool(tokens, self.batch["input_mask_0"], "mean")
            base = self.backbone.model.lin.base(embedded) @ scorer.directions
            design = torch.einsum("po,ni->nopi", scorer.directions, embedded)
        return base, design.flatten(2)
