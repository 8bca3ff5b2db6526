import numpy as np
import pytest
import torch

from calibration import InvalidPredictionsError, validate

GOOD = [[0.5, 0.5], [0.9, 0.1], [0.3, 0.7]]


def refused(probabilities, labels, num_options=None) -> InvalidPredictionsError:
    with pytest.raises(InvalidPredictionsError) as caught:
        validate(probabilities, labels, num_options)
    return caught.value


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_names_the_row_that_is_not_finite(bad):
    error = refused(np.array([*GOOD, [0.5, bad]]), [0, 1, 0, 1])
    assert error.row == 3
    assert "row 3" in str(error)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ([2.3, -1.1], "softmax"),
        ([-0.1, -2.35], "exponentiate"),
        ([0.4, 0.4], "normalise"),
        ([0.50011, 0.5], "sum to 1.0001"),
        ([1.0001, -0.0001], "softmax"),
    ],
)
def test_refuses_what_is_no_distribution_and_says_what_to_do(row, advice):
    error = refused([GOOD[0], row], [0, 0])
    assert error.row == 1
    assert advice in str(error)


def test_a_sum_within_rounding_is_kept_as_given():
    given = np.array([[0.50004, 0.5], [0.25, 0.75]])
    np.testing.assert_array_equal(validate(given, [0, 1]).probabilities, given)


def test_overshoot_of_float32_is_set_to_the_bound():
    assert validate([[1.0000001, -1e-8]], [0]).probabilities.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("label", [3, -1])
def test_names_the_row_whose_label_is_out_of_its_range(label):
    error = refused([[0.2, 0.3, 0.5], [0.1, 0.2, 0.7]], [0, label])
    assert error.row == 1
    assert "from 0 to 2" in str(error)


def test_a_label_must_be_in_range_of_its_own_row():
    ragged = [[0.2, 0.3, 0.5], [0.5, 0.5]]
    assert validate(ragged, [2, 1]).labels.tolist() == [2, 1]
    assert refused(ragged, [2, 2]).row == 1


@pytest.mark.parametrize("labels", [[0.0, 1.5, 1.0], ["a", "b", "a"], [True, False, True]])
def test_refuses_labels_that_are_no_integers(labels):
    assert "integers" in str(refused(GOOD, labels))


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        (GOOD, [0, 1], "3 rows of probabilities but 2 labels"),
        ([], [], "no rows"),
        (np.empty((0, 3)), np.empty(0, dtype=int), "no rows"),
        ([[1.0], [1.0]], [0, 0], "at least two"),
        (np.array([0.2, 0.9]), [0, 1], "both columns"),
        ([0.2, 0.9], [0, 1], "list of probabilities"),
        ([["x", "y"]], [0], "not numbers"),
        ([[10**400, 0]], [0], "not numbers"),
        (np.array([[0.5 + 1j, 0.5 - 1j]]), [0], "not numbers"),
        (GOOD, [[0], [1], [0]], "one integer per row"),
    ],
)
def test_refuses_what_cannot_be_predictions(probabilities, labels, words):
    assert words in str(refused(probabilities, labels))


def test_rows_of_unequal_lengths_are_padded_with_zeros():
    data = validate([[0.2, 0.3, 0.5], [0.6, 0.4]], np.array([2, 0], dtype=np.uint8))
    assert data.probabilities.tolist() == [[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]]
    assert data.num_options.tolist() == [3, 2]
    assert data.probabilities.dtype == np.float64
    assert data.labels.dtype == np.int64


def test_num_options_marks_the_padding():
    padded = np.array([[0.2, 0.3, 0.5], [0.6, 0.4, 0.0]])
    assert refused(padded, [0, 2], [3, 2]).row == 1
    error = refused(padded, [0, 0], [2, 2])
    assert error.row == 0
    assert "padding must be 0" in str(error)
    assert refused(padded, [0, 0], [4, 2]).row == 0
    assert refused(padded, [0, 0], [3, 1]).row == 1
    assert "num_options" in str(refused(padded, [0, 0], [3]))


def test_takes_tensors():
    data = validate(torch.tensor(GOOD), torch.tensor([0, 1, 1]))
    np.testing.assert_allclose(data.probabilities, GOOD, rtol=1e-7)


def test_taken_rows_leave_unused_columns_behind():
    data = validate([[0.2, 0.3, 0.5], [0.6, 0.4], [0.1, 0.9]], [2, 0, 1])
    taken = data.take(np.array([2, 1]))
    assert taken.probabilities.tolist() == [[0.1, 0.9], [0.6, 0.4]]
    assert taken.num_options.tolist() == [2, 2]
    assert taken.labels.tolist() == [1, 0]
    assert data.take(np.array([0])).probabilities.tolist() == [[0.2, 0.3, 0.5]]
