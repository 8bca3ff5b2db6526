"""Backbones and data the tests share; what is missing is skipped loudly."""

import os
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from bayes_lora.backbone import Backbone, load_backbone
from bayes_lora.backbone.loading import _minilm_folder, fingerprint

DATA_VARIABLE = "BAYES_LORA_DATA"
torch.set_num_threads(2)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets that BAYES_LORA_DATA names."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"{DATA_VARIABLE} names no folder: real-data tests are NOT run")
    return Path(folder)


@pytest.fixture(scope="session")
def minilm() -> Backbone:
    """The real MiniLM in float32."""
    return load_backbone("minilm")


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random two-layer models on disk, with MiniLM's real tokenizer."""
    folder = tmp_path_factory.mktemp("backbones")
    tokenizer = AutoTokenizer.from_pretrained(str(_minilm_folder()))
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    for name, model in (
        ("tiny-encoder", BertModel(BertConfig(**sizes))),
        ("tiny-decoder", LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2))),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


class WordTokenizer:
    """Enough of a tokenizer for random tiny models: a word is a token, by its hash."""

    pad_token = "[PAD]"

    def __call__(self, texts, truncation, max_length):
        return {"input_ids": [self._ids(text)[:max_length] for text in texts]}

    def pad(self, rows, return_tensors):
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        lengths = torch.tensor([len(row) for row in ids])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return {"input_ids": padded, "attention_mask": mask}

    def _ids(self, text):
        return [1 + sum(map(ord, word)) % 97 for word in text.split()] or [1]


def tiny_encoder() -> Backbone:
    """A random two-layer BERT, float64."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
    )
    return _backbone(BertModel(config), "tiny-encoder")


def tiny_decoder() -> Backbone:
    """A random two-layer Llama with grouped key-value heads, float64."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        use_cache=False,
    )
    return _backbone(LlamaModel(config), "tiny-decoder")


def _backbone(model: torch.nn.Module, name: str) -> Backbone:
    return Backbone(
        model.double(), WordTokenizer(), name=name, fingerprint=fingerprint(model), max_length=32
    )


BACKBONES = {"encoder": tiny_encoder, "decoder": tiny_decoder}


@pytest.fixture(params=list(BACKBONES))
def tiny(request: pytest.FixtureRequest) -> Backbone:
    """Each kind of tiny random backbone."""
    return BACKBONES[request.param]()
