import pytest

from bayes_lora.data.lettered import cut_list, cut_text

END = "[SEP]"


@pytest.mark.parametrize(
    ("text", "answer", "stem", "options"),
    [
        ("Hot? (A) ice (B) steam", "steam", "Hot?", ("ice", "steam")),
        ("Hot?(A)ice(B)steam", "steam", "Hot?", ("ice", "steam")),
        ("Hot? (1) ice (2) steam", "ice", "Hot?", ("ice", "steam")),
        ("(A) a (B) b (C) c (D) d (E) e (F) f", "f", "", tuple("abcdef")),
        # Letters that stand in a question or an option:
        ("Is (A) or (B) hot? (A) ice (B) steam", "ice", "Is (A) or (B) hot?", ("ice", "steam")),
        ("Q (A) vitamin (B) pill (B) iron", "vitamin (B) pill", "Q", ("vitamin (B) pill", "iron")),
        ("Q (A) vitamin (A) (B) iron", "iron", "Q", ("vitamin (A)", "iron")),
        ("Q (A) x (B) vitamin (C)", "vitamin (C)", "Q", ("x", "vitamin (C)")),
        ("Q (A) x (B) y (D) z", "x", "Q", ("x", "y (D) z")),
        # Where no cut has the answer, the plainest:
        ("Q (A) x (B) y (C) z", "w", "Q", ("x", "y", "z")),
    ],
)
def test_a_list_is_cut_where_the_answer_says(
    text: str, answer: str, stem: str, options: tuple[str, ...]
) -> None:
    cut = cut_text(text, answer, END)
    assert cut is not None
    assert (cut.stem, cut.options, cut.rest) == (stem, options, "")


def test_the_list_ends_before_the_separator_behind_it() -> None:
    cut = cut_text("Q [SEP] one (A) x (B) y [SEP] two (A) v (C) w", "x", END)
    assert cut is not None
    assert (cut.stem, cut.options) == ("Q [SEP] one", ("x", "y"))
    assert cut.rest == "[SEP] two (A) v (C) w"


@pytest.mark.parametrize(
    "text", ["", "no list", "Q (A) x", "Q (B) x (C) y", "Q (A) (B)", "(A) (B) x"]
)
def test_no_list_is_found_where_there_is_none(text: str) -> None:
    assert cut_text(text, "x", END) is None
    assert cut_list(text, "x") is None


def test_a_list_alone_begins_with_its_first_letter() -> None:
    cut = cut_list("(A) type (A) blood (B) type (B) blood", "type (B) blood")
    assert cut is not None
    assert cut.options == ("type (A) blood", "type (B) blood")
    assert cut_list("Q (A) x (B) y", "x") is None


@pytest.mark.parametrize(
    ("text", "doubtful"),
    [("Q (A) x (B) y", False), ("Q (A) x (B) y (D) z", True), ("Type (A) or? (A) x (B) y", True)],
)
def test_a_cut_that_may_be_wrong_says_so(text: str, doubtful: bool) -> None:
    cut = cut_text(text, "x", END)
    assert cut is not None
    assert cut.doubtful is doubtful


@pytest.mark.parametrize(
    "text", ["(A) (B) (C) " * 2000, "(A) x (B) y (C) z " * 2000, "(A) " * 20_000, "(A)(B)" * 3000]
)
def test_a_text_with_very_many_cuts_is_given_up_on(text: str) -> None:
    cut = cut_text(text, "no option", END)
    assert cut is None or "no option" not in cut.options
