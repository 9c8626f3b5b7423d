"""`verify` from the command line: what it tells, how it ends, and what it refuses."""

from __future__ import annotations

import json
import shutil

import duckdb
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import run as door
from commands.harvest import HarvestArgs
from commands.harvest import run as harvest
from commands.verify import Verify, _chosen, _drawn
from commands.verify import run as verify
from data.errors import StoreError, WorkbenchError
from tests.commands import untrained


@pytest.fixture(scope="module")
def harvested(tmp_path_factory):
    """A workspace with one harvested SAE."""
    made = untrained.workspace(tmp_path_factory.mktemp("verify"), {"one": "resid_post.1"})
    harvest(HarvestArgs("one", device="cpu", workspace=made.root))
    return made


@pytest.fixture
def own(harvested, tmp_path):
    """The same, to be changed."""
    shutil.copytree(harvested.root, tmp_path / "workspace")
    return type(harvested).open(tmp_path / "workspace")


def told(workspace, capsys, **options) -> tuple[int, dict]:
    """Exit status, and what it printed as JSON with its checks by name."""
    code = verify(Verify("one", json=True, device="cpu", workspace=workspace.root, **options))
    printed = json.loads(capsys.readouterr().out)
    return code, printed | {"checks": {check["name"]: check for check in printed["checks"]}}


def test_a_full_recompute_finds_no_difference(harvested, capsys):
    code, found = told(harvested, capsys, sample="all", examples="all", statistics="yes")
    assert code == 0 and found["wrong"] == 0
    con = duckdb.connect(str(harvested.feature_store("one")), read_only=True)
    n = con.execute("SELECT count(*) FROM example").fetchone()[0]
    con.close()
    assert found["checks"]["example windows"]["compared"] == n > 1000
    for name in ("example activations", "fires", "sums", "moments", "L0 of tokens"):
        assert found["checks"][name]["largest"] < 1e-4
    assert not any("--statistics yes" in note for note in found["notes"])


def test_a_sample_says_that_it_is_one(harvested, capsys):
    code, found = told(harvested, capsys, sample=5, examples=4)
    assert code == 0
    assert found["checks"]["example windows"]["compared"] == 20
    assert "looked at at most 4 examples of each of 5 of 32 features" in found["notes"]
    assert any("--statistics yes" in note for note in found["notes"])
    assert "fires" not in found["checks"]
    code, found = told(harvested, capsys, features="3:5,9", examples=4, statistics="yes")
    assert code == 0 and found["checks"]["fires"]["compared"] == 6
    code, found = told(harvested, capsys, features="3:9", sample=2, statistics="yes")
    assert code == 0 and found["checks"]["fires"]["compared"] == 4


def test_the_table_ends_with_the_verdict(harvested, capsys):
    args = ["verify", "one", "--sample", "4", "--device", "cpu", "--workspace"]
    assert door.main([*args, str(harvested.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no difference"
    assert lines[0].split() == ["compared", "largest", "flips", "noise", "wrong"]
    assert any(line.startswith("example activations") for line in lines)


def test_a_changed_row_is_found(own, capsys):
    con = duckdb.connect(str(own.feature_store("one")))
    con.execute("UPDATE feature SET total = total * 1.01 WHERE feature = 7")
    con.execute("UPDATE example SET pre = pre + 0.05 WHERE feature = 3 AND kind = 'random'")
    con.close()
    code, found = told(own, capsys, sample="all", statistics="yes")
    # The hash of the content gives it away before any number is computed.
    assert code == 1 and set(found["checks"]) == {"made from this SAE and model"}
    assert found["checks"]["made from this SAE and model"]["where"].startswith("content_hash: ")
    con = duckdb.connect(str(own.feature_store("one")))
    hashed = json.dumps(_content_hash(con))
    con.execute("UPDATE meta SET value = ? WHERE key = 'content_hash'", [hashed])
    con.close()
    code, found = told(own, capsys, sample="all", examples="all", statistics="yes")
    assert code == 1
    bad = {name: check for name, check in found["checks"].items() if check["wrong"]}
    assert set(bad) == {"sums", "example pre-activations"}
    assert bad["sums"]["where"].startswith("feature 7: ")
    assert bad["example pre-activations"]["where"].startswith("feature 3 random ")
    assert door.main(
        ["verify", "one", "--device", "cpu", "--features", "3:4", "--examples", "all",
         "--workspace", str(own.root)]
    ) == 1  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(" differences")
    assert any(line.startswith("    first or worst: feature 3 random") for line in lines)


def _content_hash(con) -> str:
    from data.schema import content_hash

    return content_hash(con)


def test_a_store_of_other_weights_is_refused(own, capsys):
    weights = own.sae("one") / "sae_weights.safetensors"
    tensors = {name: np.array(tensor) for name, tensor in load_file(weights).items()}
    tensors["W_dec"] += 1e-3
    save_file(tensors, weights)
    with pytest.raises(StoreError, match="made from other weights"):
        told(own, capsys)
    assert door.main(["verify", "one", "--workspace", str(own.root)]) == 2


def test_a_store_that_names_another_model_is_told_of_before_anything_else(own, capsys):
    con = duckdb.connect(str(own.feature_store("one")))
    con.execute("UPDATE meta SET value = '\"other\"' WHERE key = 'lm_weights'")
    con.close()
    code, found = told(own, capsys)
    check = found["checks"]["made from this SAE and model"]
    assert code == 1 and check["wrong"] == 1 and check["where"].startswith("lm_weights: other, now")
    assert found["notes"] == ["nothing else was compared: make the store again with harvest"]


def test_an_sae_that_was_never_harvested(own):
    own.feature_store("one").unlink()
    with pytest.raises(StoreError, match="run: python run.py harvest one"):
        verify(Verify("one", workspace=own.root))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sample": 0}, "--sample 0: give 1 or more, or all"),
        ({"features": "some"}, "--features 'some'"),
        ({"features": "5:99"}, "has features 0 to 31"),
        ({"examples": 0}, "--examples 0: give 1 or more, or all"),
        ({"tolerance": 0.0}, "--tolerance 0"),
    ],
)
def test_bad_arguments_are_refused(harvested, options, says):
    with pytest.raises(WorkbenchError, match=says):
        verify(Verify("one", device="cpu", workspace=harvested.root, **options))


def test_what_is_drawn_follows_the_seed():
    def chosen(d_sae, **options):
        return _chosen(Verify("one", **options), d_sae).tolist()

    assert chosen(5) == chosen(5, sample="all") == chosen(5, sample=9) == [0, 1, 2, 3, 4]
    assert chosen(5, features="1:3,4", sample="all") == [1, 2, 4]
    one, two = (chosen(1000, sample=50, seed=seed) for seed in (1, 2))
    assert len(set(one)) == 50 and one == sorted(one) and set(one) != set(two)
    assert chosen(1000, sample=50, seed=1) == one
    some = chosen(1000, features="900:", sample=7)
    assert len(set(some)) == 7 and min(some) >= 900
    feature = np.repeat([3, 4, 9], [2, 30, 30])
    rows = _drawn(feature, 5, 0)
    assert np.unique(feature[rows], return_counts=True)[1].tolist() == [2, 5, 5]
    assert _drawn(feature, 5, 0).tolist() == rows.tolist() != _drawn(feature, 5, 1).tolist()
    assert _drawn(feature, "all", 0).tolist() == list(range(62))
    assert _drawn(np.empty(0, dtype=int), 5, 0).tolist() == []
