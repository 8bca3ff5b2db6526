import pytest

from bayes_lora.data import Kind, Task
from bayes_lora.data.oddities import count_leaks, oddities
from bayes_lora.data.published import Row, Sheet, build


def tasks_of(
    sheets: dict[Sheet, list[tuple[str, str]]], options: tuple[str, ...]
) -> tuple[Kind, dict[Sheet, Task]]:
    return build(
        "mails",
        {
            sheet: [
                Row(f"{sheet.split}, line {number}", text, label, options)
                for number, (text, label) in enumerate(rows, start=1)
            ]
            for sheet, rows in sheets.items()
        },
    )


def odd(labels: str, *options: str, name: str = "mails") -> tuple[str, ...]:
    rows = [(f"text {number}", label) for number, label in enumerate(labels.split("|"))]
    kind, tasks = tasks_of({Sheet("train"): rows}, options)
    return oddities(name, kind, tasks)


def test_nothing_is_odd_about_a_plain_task() -> None:
    assert odd("good|bad|so-so", "good", "bad", "so-so") == ()


def test_an_option_that_is_never_a_label() -> None:
    assert odd("a|b", "a", "b", "c") == ("1 of 3 options is never a label: 'c'",)
    assert odd("a|a", "a", "b", "c") == ("2 of 3 options are never a label: 'b', 'c'",)


@pytest.mark.parametrize("option", ["non-ironic", "not ironic", "not_ironic", "Not_ironic"])
def test_a_negation_without_its_opposite(option: str) -> None:
    (warning,) = odd(f"{option}|hate", option, "hate")
    assert warning == f"{option!r} is an option, but its opposite is not 'ironic': 'hate'"
    assert odd(f"{option}|Ironic", option, "Ironic") == ()


def test_a_negation_in_camel_case() -> None:
    (warning,) = odd("noHate|rage", "noHate", "rage")
    assert "its opposite is not 'Hate': 'rage'" in warning
    assert odd("noHate|hate", "noHate", "hate") == ()


@pytest.mark.parametrize(
    "option", ["no", "none", "neither", "no effect", "no_impact", "normal", "Not enough info"]
)
def test_what_only_begins_like_a_negation(option: str) -> None:
    assert odd(f"{option}|some", option, "some") == ()


@pytest.mark.parametrize(
    ("name", "option", "warned"),
    [
        ("ethos-directed_vs_generalized", "generalied", True),
        ("sentiment", "very positive sentimant", True),
        ("ethos-directed_vs_generalized", "generalized", False),
        ("emotion", "emotions", False),  # a plural
        ("hate", "late", False),  # short words are near one another
    ],
)
def test_an_option_that_nearly_spells_a_word_of_the_name(
    name: str, option: str, warned: bool
) -> None:
    assert any("nearly spells" in text for text in odd(f"{option}|b", option, "b", name=name)) is (
        warned
    )


def test_rows_of_test_that_stand_in_train_or_dev_of_any_seed() -> None:
    sheets = {
        Sheet("train", 13): [("one", "a"), ("two", "b")],
        Sheet("dev", 21): [("three", "a")],
        Sheet("test", 13): [("one", "b"), ("three", "a"), ("three", "a"), ("four", "b")],
    }
    kind, tasks = tasks_of(sheets, ("a", "b"))
    assert count_leaks(tasks) == 3
    leak, contradiction = oddities("mails", kind, tasks)
    assert leak == ("3 test rows also stand, with the same options, in train or dev of some seed")
    assert contradiction == (
        "1 input stands under different labels, such as 'a' in train, line 1, 'b' in test, line 1"
    )


def test_the_same_question_with_other_options_is_no_leak() -> None:
    _, train = tasks_of({Sheet("train"): [("which?", "a")]}, ("a", "b"))
    _, test = tasks_of({Sheet("test"): [("which?", "a")]}, ("a", "c"))
    assert count_leaks({**train, **test}) == 0


def test_without_test_or_without_train_there_is_nothing_to_compare() -> None:
    _, train = tasks_of({Sheet("train"): [("one", "a")]}, ("a", "b"))
    _, test = tasks_of({Sheet("test"): [("one", "a")]}, ("a", "b"))
    assert count_leaks(train) is count_leaks(test) is None
