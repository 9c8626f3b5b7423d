"""`control` and `control-lm` through the door: what they write works as any SAE and model do."""

from __future__ import annotations

import json

import pytest

import run
from data.features_store import FeatureStore
from data.schema import open_root
from data.workspace import Workspace
from sae import formats
from tests.commands import untrained


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return untrained.workspace(tmp_path_factory.mktemp("control"), {"one": "resid_post.1"})


def door(workspace: Workspace, words: str) -> int:
    return run.main([*words.split(), "--workspace", str(workspace.root)])


def test_a_control_is_an_sae_like_any_other(workspace, capsys):
    assert door(workspace, "control random --like one --seed 3") == 0
    told = capsys.readouterr().out
    assert "uniform directions, matched thresholds" in told and "on held-out rows" in told
    sae, config = formats.load(workspace.sae("random"))
    assert (sae.architecture, sae.d_in, sae.d_sae) == ("jumprelu", 24, 32)
    made, own = config["metadata"]["workbench"], workspace.config("one")["metadata"]["workbench"]
    assert {k: v for k, v in made.items() if k != "control"} == own
    control = made["control"]
    assert (control["like"], control["seed"], control["thresholds"]) == ("one", 3, "matched")
    assert len(control["like_weights"]) == 64 and control["n_rows"] > 1000
    assert control["l0"]["rows"] == pytest.approx(control["l0"]["wanted"], rel=0.01)
    for command in ("harvest random", "evaluate random --loss-tokens 500 --attribution-tokens 0",
                    "explain random", "score random"):  # fmt: skip
        assert door(workspace, command) == 0, command
    metrics = workspace.metrics("random")
    assert metrics["l0"] == pytest.approx(control["l0"]["heldout"], rel=0.01)
    store = FeatureStore(open_root(), workspace.feature_store("random"))
    assert store.n_features == 32 and store.summary()["alive"] >= 30


def test_the_same_seed_gives_the_same_bytes(workspace):
    for name, seed in (("same-1", 5), ("same-2", 5), ("other", 6)):
        assert door(workspace, f"control {name} --like one --seed {seed}") == 0
    one, same, other = (
        (workspace.sae(name) / formats.WEIGHTS).read_bytes()
        for name in ("same-1", "same-2", "other")
    )
    assert one == same != other


def test_a_control_of_a_control_and_other_directions(workspace):
    assert door(workspace, "control turned --like one --directions rotated") == 0
    words = "control again --like turned --directions covariance --thresholds shared"
    assert door(workspace, words) == 0
    made = workspace.config("again")["metadata"]["workbench"]["control"]
    assert (made["like"], made["directions"]) == ("turned", "covariance")


def test_what_is_wrong_is_one_sentence(workspace, capsys):
    for words, why in (
        ("control x", "--like SAE"),
        ("control x --like nothing", "no SAE 'nothing'"),
        ("control one --like one", "exists already"),
        ("control one --like one --replace", "its own control"),
        ("control x --like one --directions up", "no directions 'up'"),
        ("control-lm ../x", "cannot be a name"),
        ("control-lm x --way y", "no way 'y'"),
        ("control-lm x --lm /nowhere", "no model folder"),
    ):
        assert door(workspace, words) == 2, words
        assert why in capsys.readouterr().err, words
    assert "x" not in workspace.saes and not (workspace.root / "lms" / "x").exists()


def test_an_sae_trains_on_a_model_that_learned_nothing(workspace, capsys):
    own = workspace.config("one")["metadata"]["workbench"]
    assert door(workspace, f"control-lm blank --lm {own['lm']} --seed 2") == 0
    folder = workspace.root / "lms" / "blank"
    assert f"--lm {folder}" in capsys.readouterr().out
    note = json.loads((folder / "control.json").read_text())
    assert (note["lm"], note["lm_weights"]) == (own["lm"], own["lm_weights"])
    assert (note["way"], note["seed"]) == ("moments", 2)
    words = (f"train nothing --lm {folder} --site resid_post.1 --text {own['text']} --context 16 "
             "--d-sae 32 --l0 4 --tokens 16384 --corpus-tokens 4000 --batch 256")  # fmt: skip
    assert door(workspace, words) == 0
    made = workspace.config("nothing")["metadata"]["workbench"]
    assert made["lm"] == str(folder) and made["lm_weights"] != own["lm_weights"]
    assert door(workspace, "harvest nothing") == 0
    assert door(workspace, f"control-lm blank --lm {own['lm']}") == 2
