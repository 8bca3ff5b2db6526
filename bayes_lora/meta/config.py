"""What was meta-fitted, apart from the weights."""

from dataclasses import dataclass
from typing import Any

from bayes_lora.adapters import ADAPTERS, Adapter, LoRA
from bayes_lora.backbone import Backbone
from bayes_lora.effects import Effect, Flat
from bayes_lora.errors import UnsupportedError
from bayes_lora.meta.amortization import Amortization
from bayes_lora.meta.encoder import Encoder
from bayes_lora.meta.gradient import Gradient
from bayes_lora.meta.hierarchy import Hierarchy
from bayes_lora.meta.module import MetaModule
from bayes_lora.meta.points import FirstOrderMAML, PointSteps, Reptile
from bayes_lora.meta.published import LoRAOutputs, PublishedABMLL, PublishedSteps
from bayes_lora.meta.settings import MetaSettings
from bayes_lora.meta.theta import THETA_GUIDES, ThetaGuide, adapter_sites
from bayes_lora.model import BayesianModel
from bayes_lora.named import name_of, named_from_json, named_to_json
from bayes_lora.scorers import SCORERS, Conjugate, Scorer

TASK = "task"
MODULES: dict[str, type[MetaModule]] = {
    "abmll": MetaModule,
    "multi-task": FirstOrderMAML,
    "fomaml": FirstOrderMAML,
    "lora": FirstOrderMAML,
    "reptile": Reptile,
    "abmll-published": PublishedABMLL,
}


@dataclass(frozen=True)
class MetaConfig:
    """What was meta-fitted, apart from the weights; saved as ``meta.json``.

    Args:
        scorer: How options are scored.
        adapter: What a task's weights are.
        settings: How it was learned.
        tasks: Names of the meta-training tasks.
        dev_tasks: Names of the meta-dev tasks.
        label_sets: The different label sets of the training tasks.
    """

    scorer: Scorer
    adapter: Adapter
    settings: MetaSettings
    tasks: tuple[str, ...]
    dev_tasks: tuple[str, ...]
    label_sets: tuple[tuple[str, ...], ...]

    @property
    def scorer_name(self) -> str:
        """The scorer's name on the command line."""
        return name_of(self.scorer, SCORERS)

    def build(self, backbone: Backbone) -> MetaModule:
        """Make the program, theta and the amortization, at their starting values."""
        settings = self.settings
        model = BayesianModel(
            backbone,
            [Effect(TASK, self._adapter(), Flat())],  # the hierarchy is the prior
            self.scorer,
            head_prior=Flat(),
            num_rows=1,
            seed=settings.seed,
        ).to(backbone.device)
        hierarchy = Hierarchy(model, len(self.tasks), settings.hyper_priors, settings.kl_weight)
        theta = THETA_GUIDES[settings.theta](adapter_sites(model), settings.tau)
        if not settings.learn_tau:
            theta.fix_scale()
        module = MODULES[settings.method]
        return module(hierarchy, theta, self._amortization(model, theta)).to(backbone.device)

    def _adapter(self) -> Adapter:
        if self.settings.method != "abmll-published":
            return self.adapter
        if not isinstance(self.adapter, LoRA):
            raise UnsupportedError("ABMLL was published with LoRA alone: use that adapter.")
        if isinstance(self.scorer, Conjugate):
            raise UnsupportedError(
                "ABMLL was published without a head that learns from support: use the scorer "
                "similarity or likelihood."
            )
        return LoRAOutputs(self.adapter.rank, self.adapter.alpha)

    def _amortization(self, model: BayesianModel, theta: ThetaGuide) -> Amortization:
        settings = self.settings
        steps, rate = (settings.gradient_steps, settings.training_steps), settings.learning_rate
        if settings.method != "abmll":
            published = settings.method == "abmll-published"
            return (PublishedSteps if published else PointSteps)(*steps, rate)
        encoder = None
        if settings.amortization == "encoder":
            encoder = Encoder(model, theta.predictive().scale, seed=settings.seed)
        return Gradient(*steps, rate, settings.scale_learning_rate, start=encoder)

    def to_json(self) -> dict[str, Any]:
        """Describe it."""
        return {
            "scorer": named_to_json(self.scorer, SCORERS),
            "adapter": named_to_json(self.adapter, ADAPTERS),
            "settings": self.settings.to_json(),
            "tasks": self.tasks,
            "dev_tasks": self.dev_tasks,
            "label_sets": self.label_sets,
        }

    @staticmethod
    def from_json(described: dict[str, Any]) -> "MetaConfig":
        """Make what ``to_json`` described."""
        return MetaConfig(
            scorer=named_from_json(described["scorer"], SCORERS),
            adapter=named_from_json(described["adapter"], ADAPTERS),
            settings=MetaSettings.from_json(described["settings"]),
            tasks=tuple(described["tasks"]),
            dev_tasks=tuple(described["dev_tasks"]),
            label_sets=tuple(tuple(labels) for labels in described["label_sets"]),
        )
