"""`--features`: one spelling of which features are meant, for every command."""

from __future__ import annotations

import pytest

from commands.feature_list import feature_list
from data.errors import WorkbenchError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [0, 1, 2, 3]), (":", [0, 1, 2, 3]), ("0:4", [0, 1, 2, 3]), ("3", [3]), ("0", [0]),
        ("2:", [2, 3]), (":2", [0, 1]), ("1:3", [1, 2]), ("0:2,3", [0, 1, 3]),
        ("3, 1,1:2", [1, 3]), ("2,all", [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_lists_of_features_are_sorted_and_each_once(text, expected):
    assert feature_list(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is no feature; give all, or numbers and ranges such as 0:100,205"),
        ("a", "'a' is no feature"), ("-1", "'-1' is no feature"), ("1.5", "'1.5' is no feature"),
        ("1,,2", "'' is no feature"), ("1:2:3", "'1:2:3' is no feature"),
        ("²", "'²' is no feature"), ("9" * 5000, "is no feature"),
        ("4", "this SAE has features 0 to 3, and '4' is not among them"),
        ("0:5", "this SAE has features 0 to 3, and '0:5' is not among them"),
        ("0,99999999999", "'99999999999' is not among them"),
        ("1:1", "'1:1' is none"), ("2:1", "'2:1' is none"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_features_is_refused(text, says):
    with pytest.raises(WorkbenchError, match="^--features ") as refusal:
        feature_list(text, 4)
    assert says in str(refusal.value)
