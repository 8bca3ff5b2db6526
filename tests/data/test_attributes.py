import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_lora.data import Example, Levels, Task, check_attributes, level_of, levels_of
from bayes_lora.data.attributes import MISSING
from bayes_lora.errors import ConfigError, InputDataError

SPELLINGS = ("", " ", "nan", "NaN", "NA", "N/A", "null", "NULL", "None", "none")


def task(*rows: dict[str, str], name: str = "reviews") -> Task:
    examples = (
        Example(
            input=f"text {n}",
            options=("bad", "good"),
            label=n % 2,
            attributes=attributes,
            where=f"{name}.csv, row {n}",
        )
        for n, attributes in enumerate(rows, start=2)
    )
    return Task(name, tuple(examples))


def users(*names: str, name: str = "reviews") -> Task:
    return task(*({"user": user} for user in names), name=name)


def refusal(tasks: list[Task], *attributes: str) -> str:
    with pytest.raises(InputDataError) as caught:
        check_attributes(tasks, attributes)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_levels_are_sorted_counted_and_indexed() -> None:
    levels = levels_of([users("b", "a", "b"), users("", "c", "b", name="more")], "user")
    assert levels == Levels("user", ("a", "b", "c"), (1, 3, 1))
    assert levels.index == {"a": 0, "b": 1, "c": 2}
    assert levels.index is levels.index
    assert len(levels) == 3


@given(st.lists(st.text(max_size=3)))
def test_every_row_belongs_to_one_level_or_none(values: list[str]) -> None:
    data = users(*values)
    levels = levels_of([data], "user")
    rows = Counter(level_of(example, "user") for example in data.examples)
    missing = rows.pop("", 0)
    assert dict(zip(levels.names, levels.counts, strict=True)) == rows
    assert sum(levels.counts) + missing == len(values)
    assert list(levels.names) == sorted(set(levels.names))
    assert all(levels.names[position] == name for name, position in levels.index.items())


@pytest.mark.parametrize("value", SPELLINGS)
def test_what_table_programs_write_for_no_value_is_missing(value: str) -> None:
    (example,) = users(value).examples
    assert level_of(example, "user") == ""
    assert levels_of([users(value, "a")], "user").names == ("a",)


@pytest.mark.parametrize("value", ["Nan Goldin", "0", "n a", "-", "False", "nana", "unknown"])
def test_other_values_are_levels(value: str) -> None:
    (example,) = users(f" {value} ").examples
    assert level_of(example, "user") == value


def test_missing_values_are_compared_in_lower_case() -> None:
    assert all(value == value.strip().lower() for value in MISSING)


def test_a_row_without_the_column_has_no_level() -> None:
    (example,) = task({}).examples
    assert level_of(example, "user") == ""
    assert levels_of([task({})], "user") == Levels("user", (), ())


def test_levels_that_differ_in_case_differ() -> None:
    assert levels_of([users("Ann", "ann")], "user").names == ("Ann", "ann")


def test_good_attributes_pass_without_warnings() -> None:
    rows = task({"user": "a", "shop": "x"}, {"user": "b", "shop": "x"}, {"user": "a", "shop": "y"})
    assert check_attributes([rows], ["user", "shop"]) == ()
    assert check_attributes([rows], []) == ()
    assert check_attributes(iter([rows]), ("shop",)) == ()


def test_some_levels_with_one_row_are_no_matter() -> None:
    assert check_attributes([users("a", "b", "c", "c")], ["user"]) == ()


def test_a_missing_column_is_named_with_those_there_are() -> None:
    rows = task({"user_id": "a", "shop": "x"}, {"user_id": "b", "shop": "y"})
    assert refusal([rows], "shop", "userid") == (
        "reviews: there is no attribute column 'userid' (did you mean 'user_id'?); "
        "the attribute columns are 'user_id', 'shop'"
    )
    assert "(did you mean 'user_id'?)" in refusal([rows], "User_ID ")
    assert "did you mean" not in refusal([rows], "weather")


def test_text_and_label_are_no_attribute_columns() -> None:
    for name in ("text", "label"):
        message = refusal([users("a", "b")], name)
        assert message.startswith(f"reviews: there is no attribute column {name!r}; ")


def test_a_missing_column_where_there_are_none() -> None:
    assert refusal([task({}, {})], "user") == (
        "reviews: there is no attribute column 'user'; there are none"
    )
    assert "no task is given" in refusal([], "user")


def test_tasks_are_named_and_many_are_cut() -> None:
    tasks = [users("a", name=f"task{n}") for n in range(5)]
    assert refusal(tasks[:2], "shop").startswith("task0, task1: ")
    assert refusal(tasks, "shop").startswith("task0, task1, task2 and 2 more: ")


def test_an_attribute_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'user' is named twice"):
        check_attributes([users("a", "b")], ["user", "user"])


def test_an_attribute_without_any_value_is_refused() -> None:
    assert refusal([users(*SPELLINGS)], "user") == (
        "reviews: attribute 'user' has no value in any row; fill it in or leave it out"
    )


@pytest.mark.parametrize("names", [("ann", "ann"), ("ann", ""), ("ann",)])
def test_a_constant_attribute_is_refused(names: tuple[str, ...]) -> None:
    message = refusal([users(*names)], "user")
    assert "'user' is 'ann' wherever it has a value" in message
    assert "cannot be told from the population; leave it out" in message


def test_an_attribute_constant_in_each_task_is_fine_if_they_differ() -> None:
    tasks = [users("a", "a"), users("b", "b", name="more")]
    assert check_attributes(tasks, ["user"]) == ()


@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "b", "c", "", "")])
def test_unique_levels_are_warned_of(names: tuple[str, ...]) -> None:
    warning = check_attributes([users(*names)], ["user"])[-1]
    assert "every level has one row" in warning
    assert "no level is seen again unless its name recurs" in warning


@pytest.mark.parametrize("last", ["y", "x"])
def test_two_names_of_the_same_groups_are_warned_of(last: str) -> None:
    """A row more of another shop tells them apart, and nothing is said."""
    rows = [{"user": "a", "shop": "x"}, {"user": "a", "shop": "x"}, {"user": "b", "shop": "y"}]
    warnings = check_attributes([task(*rows, {"user": "b", "shop": last})], ["user", "shop"])
    same = "attributes 'user' and 'shop' name the same groups of rows"
    assert [same in warning for warning in warnings] == [True] * (last == "y")


def test_missing_values_are_warned_of_with_their_number_and_place() -> None:
    (warning,) = check_attributes([users("a", "", "b", "NA", "a", "nan")], ["user"])
    assert warning == (
        "attribute 'user': 3 rows have no value (taken for none: 'NA', 'nan'), the first is "
        "reviews.csv, row 3: an unknown level, fitted as the population and predicted as "
        "--unknown says"
    )
    (warning,) = check_attributes([users("a", "a", "b", "")], ["user"])
    assert warning.startswith("attribute 'user': 1 row has no value, the first is reviews.csv, ")


def test_a_column_that_one_file_lacks_is_missing_there() -> None:
    tasks = [users("a", "b", "a"), task({"shop": "x"}, {"shop": "y"}, name="shops")]
    (warning,) = check_attributes(tasks, ["user"])
    assert re.search(r"2 rows have no value, the first is shops\.csv, row 2", warning)


def test_every_attribute_is_warned_of_in_the_order_given() -> None:
    rows = task({"a": "1", "b": ""}, {"a": "", "b": "2"}, {"a": "1", "b": "3"}, {"a": "2"})
    first, second, third = check_attributes([rows], ["b", "a"])
    assert first.startswith("attribute 'b': 2 rows")
    assert second.startswith("attribute 'b': every level")
    assert third.startswith("attribute 'a': 1 row")
