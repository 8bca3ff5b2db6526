"""Random tiny backbones in float64, for what does not depend on pretrained weights."""

import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from bayes_lora.backbone import Backbone
from bayes_lora.backbone.loading import fingerprint


class WordTokenizer:
    """Enough of a tokenizer for random tiny models: a word is a token, by its hash."""

    pad_token = "[PAD]"

    def __call__(self, texts, truncation, verbose):
        return {"input_ids": [self._ids(text) for text in texts]}

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
