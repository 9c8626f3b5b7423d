"""The features that a command's `--features` names. In: its text. Out: their numbers, sorted."""

from __future__ import annotations

from data.errors import WorkbenchError


def feature_list(text: str, n_features: int) -> list[int]:
    """The features that `all`, or numbers and ranges A:B (B not included) with commas between them,
    stand for, sorted, each once.

    WorkbenchError for anything else, and for a feature there is not.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        given = [number for number in (first, last) if number]
        good = all(n.isascii() and n.isdigit() and len(n) < 12 for n in given)
        if part.strip() == "all":
            first, colon = "", ":"
        elif not good or (not first and not colon):
            raise WorkbenchError(
                f"--features {text!r}: {part!r} is no feature; give all, or numbers and ranges "
                "such as 0:100,205"
            )
        low = int(first or 0)
        high = (int(last) if last else n_features) if colon else low + 1
        if not low < high <= n_features:
            raise WorkbenchError(
                f"--features {text!r}: this SAE has features 0 to {n_features - 1}, and {part!r} "
                + ("is not among them" if high > n_features or low >= n_features else "is none")
            )
        found.update(range(low, high))
    return sorted(found)
