"""Layers are found as PEFT finds them, and grouped by what they are."""

import peft
import pytest
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from bayes_lora.adapters import LoRA
from bayes_lora.backbone.targets import find_layer_groups
from bayes_lora.errors import ConfigError


def bert() -> nn.Module:
    return BertModel(
        BertConfig(
            vocab_size=9,
            hidden_size=8,
            num_hidden_layers=12,
            num_attention_heads=2,
            intermediate_size=12,
            max_position_embeddings=8,
        )
    )


@pytest.mark.parametrize(
    "targets",
    [
        ["query", "value"],
        ["attention.output.dense"],
        ["dense"],
        ["encoder.layer.1.attention.self.key"],
        r".*\.layer\.(2|11)\.attention\.self\.(query|key)",
        ["query", "output.dense"],
    ],
)
def test_the_same_layers_as_peft(targets: list[str] | str) -> None:
    config = peft.LoraConfig(target_modules=targets)
    theirs = peft.get_peft_model(bert(), config).targeted_module_names
    ours = [name for group in find_layer_groups(bert(), targets) for name in group.layers]
    assert sorted(ours) == sorted(theirs)


def test_groups_share_a_shape_and_have_short_distinct_names() -> None:
    groups = {group.name: group for group in find_layer_groups(bert(), ["query", "dense"])}
    assert set(groups) == {
        "query",
        "attention.output.dense",
        "intermediate.dense",
        "layer.output.dense",
        "pooler.dense",
    }
    assert len(groups["query"].layers) == 12
    assert (groups["intermediate.dense"].d_in, groups["intermediate.dense"].d_out) == (8, 12)


def test_layers_keep_their_depth_order_beyond_ten() -> None:
    (group,) = find_layer_groups(bert(), ["query"])
    assert [int(name.split(".")[2]) for name in group.layers] == list(range(12))


def test_default_targets_are_the_architectures_attention_projections() -> None:
    assert [group.name for group in find_layer_groups(bert(), None)] == ["query", "value"]
    gpt2 = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2, n_positions=8))
    (group,) = find_layer_groups(gpt2, None)
    assert (group.name, group.d_in, group.d_out) == ("c_attn", 8, 24)
    assert LoRA(2).factors(8, 24)["B"].shape == (24, 2)


@pytest.mark.parametrize("targets", [["query", "quarry"], "que", []])
def test_names_that_match_nothing_are_refused_with_those_there_are(
    targets: list[str] | str,
) -> None:
    with pytest.raises(ConfigError, match=r"dense, key, query, value"):
        find_layer_groups(bert(), targets)
