import pytest

from calibration import PredictionsFileError, read_predictions

GOOD = {"options": ["yes", "no"], "probabilities": [0.75, 0.25], "label": "no"}


def test_reads_rows_of_unequal_lengths(write_rows):
    other = {
        "input": "line\u2028separator",
        "options": ["a", "b", "c"],
        "probabilities": [0.2, 0.3, 0.5],
        "label": "c",
        "mutual_information": 0.125,
        "attributes": {"length": 3},
    }
    path = write_rows(
        [
            GOOD,
            "",
            other | {"input": "x"},
            '{"input": "line\u2028separator", '
            '"options": ["a", "b"], "probabilities": [1, 0], "label": "a"}',
        ]
    )
    file = read_predictions(path)
    assert file.path == path
    assert file.predictions.probabilities.tolist() == [[0.75, 0.25, 0], [0.2, 0.3, 0.5], [1, 0, 0]]
    assert file.predictions.num_options.tolist() == [2, 3, 2]
    assert file.predictions.labels.tolist() == [1, 2, 0]
    assert [row.line for row in file.rows] == [1, 3, 4]
    assert [row.input for row in file.rows] == [None, "x", "line\u2028separator"]
    assert [row.mutual_information for row in file.rows] == [None, 0.125, None]
    assert file.num_draws is None


def test_reads_the_number_of_draws(write_rows):
    assert read_predictions(write_rows([GOOD | {"num_draws": 10}] * 2)).num_draws == 10


def test_reads_the_task(write_rows):
    other = {"options": ["a", "b", "c"], "probabilities": [0, 0, 1], "label": "a", "task": "q"}
    rows = read_predictions(write_rows([GOOD | {"task": "p"}, other])).rows
    assert [row.task for row in rows] == ["p", "q"]
    assert read_predictions(write_rows([GOOD, GOOD | {"task": None}])).rows[1].task is None


def test_a_row_without_a_task_among_rows_with_one(write_rows):
    path = write_rows([GOOD | {"task": "p"}, "", GOOD])
    with pytest.raises(PredictionsFileError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f'{path}, line 3: has no "task", but line 1 has one')


def test_reads_the_support(write_rows):
    samples = [
        {"support_size": 0},
        {"support_size": 4, "support_seed": 0},
        {"support_size": 4, "support_seed": -7},
        {"support_size": 10**20, "support_seed": None},
    ]
    rows = read_predictions(write_rows([GOOD | sample for sample in samples])).rows
    assert [row.support for row in rows] == [(0, None), (4, 0), (4, -7), (10**20, None)]
    assert read_predictions(write_rows([GOOD])).rows[0].support is None


def test_a_row_without_a_support_size_among_rows_with_one(write_rows):
    path = write_rows([GOOD | {"support_size": 0}, "", GOOD])
    with pytest.raises(PredictionsFileError) as caught:
        read_predictions(path)
    assert str(caught.value) == (
        f'{path}, line 3: has no "support_size", but line 1 has one; '
        "give one in every row or in none"
    )


def test_a_row_without_a_support_seed_among_those_of_its_task_and_size(write_rows):
    four = GOOD | {"task": "p", "support_size": 4}
    seeded = four | {"support_seed": 0}
    fine = [seeded, four | {"support_size": 0}, four | {"task": "q"}]
    assert len(read_predictions(write_rows(fine)).rows) == 3
    path = write_rows([*fine, four])
    with pytest.raises(PredictionsFileError) as caught:
        read_predictions(path)
    words = 'line 4: has no "support_seed", but line 1 of this task and support size has one'
    assert words in str(caught.value)
    with pytest.raises(PredictionsFileError, match=r'has a "support_seed", but line 1 .* has none'):
        read_predictions(write_rows([four, seeded]))


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"options": ["yes",', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": ' + "1" * 5000 + "}", "not valid JSON"),
        ("[1, 2]", "not an object"),
        (b'{"input": "caf\xe9"}', "not UTF-8"),
        (without("options"), 'no "options"'),
        (without("probabilities"), 'no "probabilities"'),
        (without("label"), "has no label"),
        (GOOD | {"label": None}, "has no label"),
        (GOOD | {"label": "maybe"}, "'maybe' is not one of its options"),
        (GOOD | {"label": 1}, '"label" must be a string'),
        (GOOD | {"input": 5}, '"input" must be a string'),
        (GOOD | {"task": 5}, '"task" must be a string'),
        (GOOD | {"task": "p"}, 'has a "task", but line 1 has none'),
        (GOOD | {"options": "yes"}, '"options" must be a list'),
        (GOOD | {"options": ["yes", 2]}, '"options" must be strings'),
        (GOOD | {"options": ["no", "no"]}, "same option twice"),
        (GOOD | {"probabilities": 0.5}, '"probabilities" must be a list'),
        (GOOD | {"probabilities": [0.5, "0.5"]}, '"probabilities" must be a number'),
        (GOOD | {"probabilities": [True, False]}, '"probabilities" must be a number'),
        (GOOD | {"probabilities": [1.0]}, "2 options but 1 probabilities"),
        (GOOD | {"probabilities": [float("nan"), 1.0]}, "NaN"),
        (GOOD | {"probabilities": [1e999, 0.0]}, "infinity"),
        (GOOD | {"probabilities": [10**400, 0]}, "too large"),
        (GOOD | {"probabilities": [3.2, -1.0]}, "softmax"),
        (GOOD | {"probabilities": [0.5, 0.4]}, "sum to 0.9"),
        (GOOD | {"options": ["no"], "probabilities": [1.0]}, "at least two"),
        (GOOD | {"num_draws": 2.5}, '"num_draws" must be a whole number'),
        (GOOD | {"num_draws": -1}, '"num_draws" must be a whole number'),
        (GOOD | {"support_size": -1}, '"support_size" must be a whole number from 0 up, not -1'),
        (GOOD | {"support_size": 4.0}, '"support_size" must be a whole number from 0 up, not 4.0'),
        (GOOD | {"support_size": True}, '"support_size" must be a whole number'),
        (GOOD | {"support_size": 4, "support_seed": "1"}, '"support_seed" must be a whole number'),
        (GOOD | {"support_size": 4, "support_seed": False}, "whole number, not False"),
        (GOOD | {"support_seed": 1}, 'has a "support_seed" but no "support_size"'),
        (GOOD | {"support_size": 4}, 'has a "support_size", but line 1 has none'),
        (GOOD | {"num_draws": 4}, "num_draws is 4 but None on line 1"),
        (GOOD | {"mutual_information": "high"}, '"mutual_information" must be a number'),
        (GOOD | {"mutual_information": float("nan")}, '"mutual_information" holds nan'),
    ],
)
def test_names_file_and_line_of_every_defect(write_rows, row, words):
    path = write_rows([GOOD, "", row, GOOD])
    with pytest.raises(PredictionsFileError) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [[], ["", "  "]])
def test_an_empty_file(write_rows, content):
    with pytest.raises(PredictionsFileError, match="is empty"):
        read_predictions(write_rows(content))


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(PredictionsFileError, match=r"cannot be read.*give a predictions"):
            read_predictions(path)


def test_a_file_without_any_label(write_rows):
    with pytest.raises(PredictionsFileError, match="accuracy needs labels"):
        read_predictions(write_rows([without("label"), GOOD | {"label": None}]))
