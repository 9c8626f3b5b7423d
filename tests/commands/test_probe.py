"""`probe` through the door: rows by layer, the same again, and every refusal in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

import run
from data.workspace import Workspace
from sae import formats
from tests import tiny
from tests.commands import untrained


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    """SAEs at two layers, the deeper one first by name; and one that reads other contexts."""
    sites = {"a": "resid_post.2", "b": "resid_post.0", "apart": "resid_post.1"}
    made = untrained.workspace(tmp_path_factory.mktemp("probe"), sites)
    folder = made.sae("apart")
    sae, config = formats.load(folder)
    config["metadata"]["workbench"]["rule"]["context"] = 32
    formats.save(sae, folder, config["metadata"])
    return made


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Texts about files, texts about sparse codes, and documents that hold no token to keep."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        kind = "files" if number % 3 else "codes"
        words = ("file path open read" if number % 3 else "sparse code feature fire").split()
        common = rng.choice(tiny.WORDS, size=6)
        mixed = rng.permutation([*rng.choice(words, size=4), *common])
        rows.append({"text": f"{number} " + " ".join(mixed), "label": kind})
    rows += [{"text": tiny.EOS, "label": "files"}] * 2
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _run(workspace, words, capsys):
    capsys.readouterr()
    code = run.main(["probe", *map(str, words), "--workspace", str(workspace.root)])
    told = capsys.readouterr()
    return code, told.out, told.err


def _json(workspace, words, capsys):
    code, out, err = _run(workspace, [*words, "--json"], capsys)
    assert code == 0, err
    return json.loads(out)


def test_rows_by_layer_of_every_representation(workspace, labels, capsys):
    found = _json(workspace, ["a", "b", "--labels", labels, "--k", 2, 8], capsys)
    assert found["classes"] == {"codes": 40, "files": 80} and found["n_left_out"] == 2
    assert found["n_train"] + found["n_test"] == 120 and found["n_test"] == 36
    assert found["majority"]["accuracy"]["value"] == pytest.approx(24 / 36)
    assert found["majority"]["balanced_accuracy"]["value"] == 0.5
    kinds = [("raw", None), ("features", None), ("raw_pca", 2), ("k_features", 2), ("raw_pca", 8),
             ("k_features", 8)]  # fmt: skip
    rows = [(r["name"], r["layer"], r["representation"], r["k"]) for r in found["rows"]]
    assert rows == [("b", 0, *kind) for kind in kinds] + [("a", 2, *kind) for kind in kinds]
    for row in found["rows"]:
        for key in ("accuracy", "balanced_accuracy", "auc"):
            low, value, high = (row[key][part] for part in ("low", "value", "high"))
            assert 0 <= low <= value <= high <= 1
        assert 20 < row["features_ever_on"] < row["d_sae"] == 32, "one is dead"
        if row["representation"] in ("raw_pca", "k_features"):
            assert row["inputs"] == row["k"]
        if row["representation"] == "k_features":
            assert len(set(row["chosen"])) == row["k"] and max(row["chosen"]) < 32
    raw = next(row for row in found["rows"] if row["representation"] == "raw")
    assert raw["inputs"] == tiny.WIDTH and raw["auc"]["low"] > 0.8, "the words give it away"


def test_the_same_seed_gives_the_same_numbers(workspace, labels, capsys):
    words = ["a", "--labels", labels, "--k", 2]
    first = _json(workspace, words, capsys)
    assert _json(workspace, words, capsys) == first
    assert _json(workspace, [*words, "--seed", 1], capsys)["rows"] != first["rows"]


def test_one_sae_gives_the_same_alone_and_beside_another(workspace, labels, capsys):
    alone = _json(workspace, ["b", "--labels", labels, "--k", 2], capsys)["rows"]
    both = _json(workspace, ["a", "b", "--labels", labels, "--k", 2], capsys)["rows"]
    assert [row for row in both if row["name"] == "b"] == alone


def test_shuffled_labels_are_chance(workspace, labels, capsys, tmp_path):
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    order = np.random.default_rng(3).permutation(len(rows))
    path = tmp_path / "shuffled.jsonl"
    shuffled = [{"text": r["text"], "label": rows[i]["label"]} for r, i in zip(rows, order)]  # noqa: B905
    path.write_text("".join(json.dumps(row) + "\n" for row in shuffled))
    for row in _json(workspace, ["a", "--labels", path, "--k", 2], capsys)["rows"]:
        assert row["auc"]["low"] <= 0.5 <= row["auc"]["high"], row


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
def test_the_table_has_a_line_for_every_row(pool, workspace, labels, capsys):
    words = ["a", "b", "--labels", labels, "--k", 3, "--pool", pool]
    code, out, _ = _run(workspace, words, capsys)
    assert code == 0 and f"the {pool} of its tokens" in out
    assert out.count("features (") == 2 and out.count("ever on") == 2
    shown = [line.split()[:2] for line in out.splitlines()]
    for name in "ab":
        for kind in ("raw", "features", "raw_pca", "k_features"):
            assert shown.count([name, kind]) == 1
    assert shown.count(["-", "majority"]) == 1


def test_folders_and_csv_are_read_too(workspace, capsys, tmp_path):
    csv = ["text,label"]
    for number in range(30):
        kind = "one" if number % 2 else "two"
        (tmp_path / "docs" / kind).mkdir(parents=True, exist_ok=True)
        text = f"{'file path' if number % 2 else 'sparse code'} {number} return"
        (tmp_path / "docs" / kind / f"{number:02}.txt").write_text(text)
        csv.append(f"{text},{kind}")
    (tmp_path / "a.csv").write_text("\n".join(csv) + "\n")
    results = []
    for source in (tmp_path / "docs", tmp_path / "a.csv"):
        found = _json(workspace, ["a", "--labels", source, "--k", 2], capsys)
        results.append([found["classes"], found["n_test"]])
    assert results[0] == results[1] == [{"one": 15, "two": 15}, 8]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "no SAE is named"),
        ("a", "--labels is missing"),
        ("nobody --labels LABELS", "no SAE 'nobody'"),
        ("a a --labels LABELS", "named twice"),
        ("a apart --labels LABELS", "apart reads another model than a, or other contexts"),
        ("a --labels /none", "no labelled text at '/none'"),
        ("a --labels LABELS --label-field kind", "pass --label-field, one of text, label"),
        ("a --labels LABELS --label-field text", "different documents: a probe needs 10"),
        ("a --labels LABELS --pool median", "--pool 'median' is unknown"),
        ("a --labels LABELS --k 0", "--k 0: give different numbers, 1 or more"),
        ("a --labels LABELS --k 2 2", "give different numbers"),
        ("a --labels LABELS --k 25", "--k 25: give at most 24"),
        ("a --labels LABELS --seed -1", "--seed -1"),
    ],
)
def test_refusals(words, says, workspace, labels, capsys):
    words = words.replace("LABELS", str(labels)).split()
    code, out, err = _run(workspace, words, capsys)
    told = [line for line in err.splitlines() if ": done in " not in line]
    assert code == 2 and out == "" and len(told) == 1 and says in told[0]
