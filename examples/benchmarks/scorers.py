"""What scoring options costs, beside the plain way to do the same: work counted, then time.

    python examples/benchmarks/scorers.py --out RESULTS.json [--rounds 7]

similarity   MiniLM, 1,000 rows of 64 tokens, 6 labels, one draw. Plain: sentence-transformers
             embeds every row and, for every row, its labels.
             Counted: sequences and tokens encoded.
likelihood   a random Llama (4 layers of width 256, vocabulary 32,000), 32 prompts of 128 tokens,
             4 options of 3 tokens each. Plain: one pass of prompt and option together for each
             option, the head at every position. Counted by torch: FLOPs of the head, and of all.
step         a training step of MiniLM, 32 rows of 64 tokens, 8 draws: similarity with 6 labels,
             with 4 options of its own a row, and with one row of many labels, over a class head.

Every comparison's sides take turns in one process; times are medians.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from common import describe_run, write_json
from timing import DEVICE, Step, in_turns

from bayes_lora import LoRA, Posterior, Task, load_backbone, unlabelled
from bayes_lora.backbone import Backbone
from bayes_lora.data import Example, Kind
from bayes_lora.guides import MeanField
from bayes_lora.inference.fit import make_config
from bayes_lora.inference.methods import DEFAULTS
from bayes_lora.inference.svi import SVIModule
from bayes_lora.predict import predict
from bayes_lora.scorers import Likelihood, Row

LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
ROWS, WORDS, PROMPTS, PROMPT_TOKENS, OPTIONS, OPTION_TOKENS = 1000, 62, 32, 128, 4, 3
VOCABULARY = [
    "time",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
]


def beside_last(sides: dict[str, Step], rounds: int) -> dict[str, Any]:
    """Run the sides in turns; medians, and ratios to the last side."""
    times = in_turns(sides, rounds, warm_up=1)
    medians = {name: own.median for name, own in times.items()}
    base = list(medians.values())[-1]
    ratios = {name: value / base for name, value in medians.items()}
    seconds = {name: own.wall for name, own in times.items()}
    return {"median_seconds": medians, "over_plain": ratios, "seconds": seconds}


def sentences(count: int, words: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(VOCABULARY), (count, words), generator=generator).tolist()
    return [" ".join(VOCABULARY[i] for i in row) for row in picks]


def similarity(rounds: int) -> dict[str, Any]:
    backbone = load_backbone("minilm").to(DEVICE)
    posterior = Posterior.pretrained(backbone, "similarity")
    texts = sentences(ROWS, WORDS)
    rows = posterior.config.scorer.rows(backbone, unlabelled(texts, LABELS))
    seen: list[torch.Tensor] = []
    states = backbone.states
    backbone.states = lambda inputs: (seen.append(inputs["attention_mask"]), states(inputs))[1]
    predict(posterior.model, posterior.draw(0), rows)
    counted = {
        "sequences": sum(len(mask) for mask in seen),
        "tokens": sum(int(mask.sum()) for mask in seen),
        "plain_sequences": ROWS * (1 + len(LABELS)),
        "plain_tokens": sum(len(r.ids) + sum(map(len, r.options)) for r in rows),
    }
    backbone.states = states
    reference = SentenceTransformer(backbone.model.name_or_path, device=DEVICE)
    sides = {
        "ours": lambda: predict(posterior.model, posterior.draw(0), rows),
        "sentence-transformers, labels once": lambda: reference.encode(
            [*texts, *LABELS], show_progress_bar=False
        ),
        "sentence-transformers, labels each row": lambda: reference.encode(
            [*texts, *(LABELS * ROWS)], show_progress_bar=False
        ),
    }
    return counted | beside_last(sides, max(1, rounds // 2))


def llama() -> tuple[LlamaForCausalLM, Backbone]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        intermediate_size=688,
        use_cache=False,
    )
    model = LlamaForCausalLM(config).to(DEVICE)
    tokenizer = load_backbone("minilm").tokenizer  # for its padding alone
    backbone = Backbone(
        model.base_model, tokenizer, name="llama", fingerprint="", language_model=model
    )
    return model, backbone


def flops(work: Step) -> tuple[int, int]:
    """Count the head's floating-point operations, and all of them."""
    with FlopCounterMode(display=False) as counter:
        work()
    return sum(counter.get_flop_counts()["LlamaForCausalLM.lm_head"].values()), (
        counter.get_total_flops()
    )


def likelihood(rounds: int, option_tokens: int) -> dict[str, Any]:
    model, backbone = llama()
    shape = (PROMPTS, PROMPT_TOKENS + OPTIONS * option_tokens)
    ids = torch.randint(1, 32_000, shape, generator=torch.Generator().manual_seed(1))
    prompts, options = ids[:, :PROMPT_TOKENS], ids[:, PROMPT_TOKENS:]
    options = options.unflatten(1, (OPTIONS, option_tokens))
    rows = [
        Row(tuple(prompt), tuple(map(tuple, own)))
        for prompt, own in zip(prompts.tolist(), options.tolist(), strict=True)
    ]
    head = {"log_scale": torch.zeros(1, 1, device=DEVICE)}
    scorer = Likelihood()
    batch = scorer.collate(backbone, rows)
    repeated = prompts.unsqueeze(1).expand(-1, OPTIONS, -1)
    whole = torch.cat([repeated, options], dim=-1).flatten(0, 1).to(DEVICE)

    def ours() -> torch.Tensor:
        return scorer.logits(backbone, batch, head)

    def plain() -> torch.Tensor:
        logits = model(input_ids=whole).logits[:, PROMPT_TOKENS - 1 : -1].log_softmax(-1)
        scores = logits.gather(-1, whole[:, PROMPT_TOKENS:, None]).squeeze(-1)
        return scores.mean(-1).unflatten(0, (PROMPTS, OPTIONS))

    with torch.inference_mode():
        difference = (ours().softmax(-1) - plain().softmax(-1)).abs().max().item()
        (our_head, our_all), (plain_head, plain_all) = flops(ours), flops(plain)
        timed = beside_last({"ours": ours, "plain": plain}, rounds)
    return {
        "largest_difference_of_probabilities": difference,
        "head_flops_over_plain": our_head / plain_head,
        "all_flops_over_plain": our_all / plain_all,
        **timed,
    }


def step(rounds: int) -> dict[str, Any]:
    texts = sentences(32, WORDS)
    own = sentences(32 * OPTIONS, 3, seed=1)
    choices = [tuple(dict.fromkeys(own[i * OPTIONS : (i + 1) * OPTIONS])) for i in range(32)]
    examples = [
        Example(input=text, options=options, label=0, where="row")
        for text, options in zip(texts, choices, strict=True)
    ]
    labelled = Task("labels", tuple(unlabelled(texts, LABELS)))
    multiple = Task("choices", tuple(examples), kind=Kind.MULTIPLE_CHOICE)
    many = Task(
        "many labels",
        tuple(unlabelled(texts[:1], [*dict.fromkeys(sentences(400, 3, seed=2))][:250])),
    )
    rest = replace(labelled, examples=labelled.examples[1:])
    sides = {
        "similarity, 6 labels": make_step([labelled], "similarity"),
        "similarity, 4 options a row": make_step([multiple], "similarity"),
        "similarity, 6 labels but for one row with 250": make_step([many, rest], "similarity"),
        "class head": make_step([labelled], "class-head"),
    }
    return beside_last(sides, rounds)


def make_step(tasks: list[Task], scorer: str) -> Step:
    backbone = load_backbone("minilm").to(DEVICE)
    chosen = DEFAULTS["mean-field"]
    config = make_config(
        backbone, tasks, guide=MeanField(), scorer=scorer, adapter=LoRA(), chosen=chosen
    )
    model, guide = config.build(backbone)
    model.share_rows = True
    module = SVIModule(model, guide, draws=8)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    rows = config.scorer.rows(backbone, [e for task in tasks for e in task.examples])
    labels = torch.zeros(len(rows), dtype=torch.long, device=DEVICE)

    def work() -> None:
        batch = config.scorer.collate(backbone, rows, groups=8)
        module(labels=labels, **batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    results = describe_run() | {"device": DEVICE}
    results["results"] = {
        "similarity": similarity(arguments.rounds),
        "likelihood, 3 tokens an option": likelihood(arguments.rounds, OPTION_TOKENS),
        "likelihood, 1 token an option": likelihood(arguments.rounds, 1),
        "step": step(arguments.rounds),
    }
    write_json(results, arguments.out)
    for name, row in results["results"].items():
        print(name, {k: v for k, v in row.items() if k not in ("seconds", "median_seconds")})


if __name__ == "__main__":
    main()
