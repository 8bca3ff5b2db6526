"""What decides the suites' comparisons: floors, which settings are kept, and what is run again."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from test_meta_conformance import NEW, TASKS

from bayes_lora import load_backbone
from bayes_lora.data import Example, Kind, Task
from bayes_lora.meta import MetaSettings, meta_fit
from calibration import nll

FOLDER = Path(__file__).parents[1] / "examples" / "meta_learning"
LABELS = ("calm", "storm", "fog")


@pytest.fixture(scope="module")
def scripts() -> SimpleNamespace:
    """The scripts, which import their siblings by plain name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import compare
        import methods
        import suites

        return SimpleNamespace(compare=compare, methods=methods, suites=suites)


def row(text: str, label: int, options: tuple[str, ...] = LABELS) -> Example:
    return Example(input=text, options=options, label=label, where=text)


def test_frequencies_are_counts_with_one_more_of_each(scripts: SimpleNamespace) -> None:
    support = [row("a", 0), row("b", 0), row("c", 2)]
    queries = [row("d", 1), row("e", 0, LABELS[::-1]), row("f", 0, LABELS[:2])]
    found, prior = scripts.methods.frequencies([support, []], queries)
    expected = [[3 / 6, 1 / 6, 2 / 6], [2 / 6, 1 / 6, 3 / 6], [3 / 4, 1 / 4, 0]]
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(prior, [[1 / 3] * 3, [1 / 3] * 3, [0.5, 0.5, 0]])


def make_task(suites: ModuleType) -> object:
    """Two queries, and supports of sizes 0 and 1 whose number is in the text."""
    queries = Task("sky", (row("p", 0), row("q", 1)), Kind.FIXED_LABELS)
    supports = {
        (size, seed): (row(f"{seed}", 0),) * size for size in (0, 1) for seed in suites.SEEDS
    }
    return suites.TestTask("sky", queries, supports)


def answer_with(seen: list[int]) -> Callable[..., list[np.ndarray]]:
    def predict(supports: list, queries: list) -> list[np.ndarray]:
        seen.append(len(supports))
        sure = [0.5 + (int(given[0].input) / 1000 if given else 0) for given in supports]
        return [np.array([[s, (1 - s) / 2, (1 - s) / 2]] * len(queries)) for s in sure]

    return predict


def test_every_support_has_a_cell_and_without_support_they_are_equal(
    scripts: SimpleNamespace,
) -> None:
    seen: list[int] = []
    task, seeds = make_task(scripts.suites), scripts.suites.SEEDS
    cells = scripts.compare.judge(task, (0, 1), "lora", answer_with(seen))
    assert seen == [1, len(seeds)]
    assert [(c["size"], c["support_seed"]) for c in cells] == [
        (size, seed) for size in (0, 1) for seed in seeds
    ]
    assert {c["accuracy"] for c in cells} == {0.5}
    assert len({c["nll"] for c in cells[: len(seeds)]}) == 1
    for cell, seed in zip(cells[len(seeds) :], seeds, strict=True):
        sure = 0.5 + seed / 1000
        other = (1 - sure) / 2
        expected = nll(np.array([[sure, other, other]] * 2), np.array([0, 1]))
        assert cell["nll"] == pytest.approx(expected)


def test_what_needs_no_support_is_asked_once(scripts: SimpleNamespace) -> None:
    seen: list[int] = []
    scripts.compare.judge(make_task(scripts.suites), (0, 1), "zero-shot", answer_with(seen))
    assert seen == [1]


def test_a_result_of_another_protocol_is_run_again(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    suite = SimpleNamespace(name="clinc150")
    asked = scripts.methods.protocol(suite, "torch.bfloat16")
    path = tmp_path / "lora-1-0.json"
    assert not scripts.compare.done(path, asked)
    path.write_text(json.dumps({"protocol": asked}))
    assert scripts.compare.done(path, asked)
    assert not scripts.compare.done(path, scripts.methods.protocol(suite, "torch.float32"))
    assert not scripts.compare.done(path, asked | {"max_steps": 1})


def test_every_method_has_a_file_of_its_own(scripts: SimpleNamespace) -> None:
    names = [scripts.compare.file_name(name) for name in scripts.methods.NAMES]
    assert len(set(names)) == len(names)
    assert set(scripts.methods.ONCE) < set(scripts.methods.NAMES)
    assert set(scripts.methods.WITHOUT_SUPPORT) < set(scripts.methods.NAMES)


@pytest.mark.parametrize("scorer", ["conjugate", "similarity"])
def test_supports_that_move_no_weight_are_answered_as_one_by_one(
    scripts: SimpleNamespace, scorer: str, tiny_folders: Path
) -> None:
    backbone = load_backbone(str(tiny_folders / "tiny-encoder"))
    settings = MetaSettings(method="lora", steps=0)
    learned = meta_fit(TASKS, backbone, scorer=scorer, settings=settings)
    supports, queries = (NEW.examples[:3], NEW.examples[3:6]), NEW.examples[6:]
    expected = [learned.adapt(own).predict(queries).probabilities for own in supports]
    found = scripts.methods.answer(learned, supports, queries)
    np.testing.assert_array_equal(found, expected)
    same = np.array_equal(expected[0], expected[1])
    assert same == (scorer == "similarity")
