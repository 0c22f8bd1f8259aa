"""Tables of mixed types become numbers, column by column, and what is wrong with one is said by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.utils.estimator_checks import parametrize_with_checks

from graphattn.tabular import TableEncoder

nan = np.nan


@parametrize_with_checks([TableEncoder()])
def test_estimator_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def mixed() -> np.ndarray:
    return np.array(
        [[1.0, "b", True, 7, None], [None, "a", False, 7, nan], [3.0, None, True, 7, None], [8.0, "a", True, 7, None]],
        dtype=object,
    )


def test_columns_are_encoded_by_their_type() -> None:
    encoder = TableEncoder().fit(mixed())
    found = encoder.transform(mixed())
    values = np.array([1.0, 3.0, 8.0])
    assert_array_equal(found[[0, 2, 3], 0], (values - values.mean()) / values.std())
    assert np.isnan(found[1, 0])
    assert_array_equal(found[:, 1], [1, 0, nan, 0])
    assert_array_equal(found[:, 2], [1, 0, 1, 1])
    assert_array_equal(found[:, 3], np.zeros(4))  # constant: exact zeros
    assert np.isnan(found[:, 4]).all()
    assert encoder.num_categories_.tolist() == [0, 2, 2, 0, 0]
    assert [None if labels is None else labels.tolist() for labels in encoder.categories_] == [
        None,
        ["a", "b"],
        [False, True],
        None,
        None,
    ]


def test_lists_keep_their_types() -> None:
    rows = [["a", 1.0], ["b", 3.0]]
    encoder = TableEncoder().fit(rows)
    assert encoder.num_categories_.tolist() == [2, 0]
    assert_array_equal(encoder.transform([["b", 3]]), [[1, 1]])


def test_constant_and_unknown_columns_stay_tame_at_predict_time() -> None:
    encoder = TableEncoder().fit(np.array([[1e9 + 0.1, nan], [1e9 + 0.1, nan]]))
    # One unit off a constant is one unit, not 1e8 deviations; a column that was never known stays unknown.
    assert_array_equal(encoder.transform(np.array([[1e9 + 1.1, 5.0]])), [[1.0, nan]])


def test_a_column_that_hardly_varies_is_not_blown_up() -> None:
    rows = np.array([[5.0], [5.0 + 1e-14]])
    encoder = TableEncoder().fit(rows)
    assert_array_equal(encoder.scale_, [1e-8])
    assert np.abs(encoder.transform(rows)).max() < 1e-5


@pytest.mark.parametrize("unit", [1e-200, 1e-12, 1e12, 1e200])
def test_columns_may_be_of_any_unit(unit: float) -> None:
    values = np.array([[1.0], [3.0], [8.0]])
    expected = TableEncoder().fit_transform(values)
    np.testing.assert_allclose(TableEncoder().fit_transform(unit * values), expected, rtol=1e-14)


def test_tables_in_which_nothing_is_known() -> None:
    encoder = TableEncoder().fit(np.full((3, 2), None, dtype=object))
    assert np.isnan(encoder.transform(np.array([["a", 7.0], [None, nan]], dtype=object))).all()
    assert encoder.num_categories_.tolist() == [0, 0]


def test_unseen_categories() -> None:
    rows = np.array([["a", 1.0], ["c", 2.0]], dtype=object)
    other = np.array([["b", 1.0]], dtype=object)
    with pytest.raises(ValueError, match="column 0 holds the category 'b', which fit has not seen"):
        TableEncoder().fit(rows).transform(other)
    assert_array_equal(TableEncoder(unknown="zero").fit(rows).transform(other)[:, 0], [-1])


@pytest.mark.parametrize("categorical", [[1], [False, True], np.array([1])])
def test_numbers_may_be_categories(categorical: Any) -> None:
    encoder = TableEncoder(categorical).fit([[0.5, 30], [1.5, 10], [0.5, 20]])
    assert_array_equal(encoder.transform([[0.5, 20], [1.5, 30]])[:, 1], [1, 2])
    assert encoder.num_categories_.tolist() == [0, 3]


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(
        {
            "size": pandas.array([1, 3, None], dtype="Int64"),
            "grade": pandas.Categorical([3, 1, None]),
            "name": ["u", "v", "u"],
            "flag": [True, False, True],
        }
    )
    encoder = TableEncoder().set_output(transform="pandas").fit(frame)
    found = encoder.transform(frame)
    assert list(found.columns) == ["size", "grade", "name", "flag"]
    assert_array_equal(found.to_numpy(), [[-1, 1, 0, 1], [1, 0, 1, 0], [nan, nan, 0, 1]])
    by_name = TableEncoder(["size"]).fit(frame[["size"]])
    assert by_name.num_categories_.tolist() == [2]
    frame.loc[0, "name"] = "w"
    with pytest.raises(ValueError, match="column 'name' holds the category 'w'"):
        encoder.transform(frame)


@pytest.mark.parametrize(
    ("options", "rows", "error", "message"),
    [
        ({"unknown": "drop"}, [[1.0]], ValueError, "unknown is 'drop'; expected 'error' or 'zero'"),
        ({"categorical": "all"}, [[1.0]], ValueError, "categorical is 'all'; expected 'auto'"),
        ({"categorical": [2]}, [[1.0]], ValueError, "categorical names the column 2, which X does not have"),
        ({"categorical": ["age"]}, [[1.0]], ValueError, "categorical names the column 'age'"),
        ({"categorical": [True, False]}, [[1.0]], ValueError, "mask of 2 columns, but X has 1"),
        ({}, np.array([["2020-01-01"]], dtype="M8[D]"), ValueError, "column 0 holds .*2020-01-01.* but is continuous"),
        ({}, [[np.inf]], ValueError, "column 0 contains infinity"),
        ({}, np.array([[1.0], [{}]], dtype=object), TypeError, "column 0 holds a dict"),
        ({"categorical": [0]}, np.array([[1.0], ["a"]], dtype=object), TypeError, "categories of different types"),
        (
            {"categorical": [False]},
            np.array([[1.0], ["a"]], dtype=object),
            ValueError,
            "column 0 holds 'a' but is continuous",
        ),
    ],
)
def test_errors(options: Any, rows: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TableEncoder(**options).fit(rows)
