"""Backbones and data the tests share; what is missing is skipped loudly."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reached for the hub would wait for it

import pytest
import torch
from tiny_backbones import tiny_decoder, tiny_encoder
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from bayes_lora.backbone import Backbone, load_backbone
from bayes_lora.backbone.loading import _minilm_folder

DATA_VARIABLE = "BAYES_LORA_DATA"
VOCABULARY = 6000  # of the tiny decoders on disk
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_finish() -> None:
    """Take what is imported by now from the garbage collector's rounds.

    The Trainer collects before every fit: of a tiny fit, that is two thirds.
    """
    gc.collect()
    gc.freeze()


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
    """Random two-layer models on disk, with MiniLM's real tokenizer, or its first tokens."""
    folder = tmp_path_factory.mktemp("backbones")
    whole = AutoTokenizer.from_pretrained(str(_minilm_folder()))
    tokenizer = _shortened(whole)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    t5 = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.sep_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    bert = BertConfig(**{**sizes, "vocab_size": len(whole)})
    for name, model, own in (
        ("tiny-encoder", BertModel(bert), whole),
        ("tiny-decoder", LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2)), tokenizer),
        ("tiny-encoder-decoder", T5ForConditionalGeneration(t5), tokenizer),
    ):
        model.save_pretrained(folder / name)
        own.save_pretrained(folder / name)
    # As T5's own: an end token and no other.
    end = (tokenizer.sep_token, tokenizer.sep_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end[0]}", special_tokens=[end]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        eos_token=tokenizer.sep_token,
    ).save_pretrained(folder / "tiny-encoder-decoder")
    return folder


def _shortened(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Keep the first tokens: scores over all 30,522 are most of what tiny decoders take."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    words = described["model"]["vocab"]
    described["model"]["vocab"] = {word: i for word, i in words.items() if i < VOCABULARY}
    shorter = Tokenizer.from_str(json.dumps(described))
    return type(tokenizer)(tokenizer_object=shorter, **tokenizer.special_tokens_map)


BACKBONES = {"encoder": tiny_encoder, "decoder": tiny_decoder}


@pytest.fixture(params=list(BACKBONES))
def tiny(request: pytest.FixtureRequest) -> Backbone:
    """Each kind of tiny random backbone."""
    return BACKBONES[request.param]()


@pytest.fixture
def printed_elsewhere() -> Callable[[str], str]:
    """What a script prints in a process whose strings have other hashes."""

    def printed(script: str) -> str:
        hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        path = os.pathsep.join(sys.path)
        return subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    return printed
