"""`export` of features: from a workspace to files, and what is refused without a trace."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import run
from commands.export import FEATURES
from tests.data import handmade
from tests.ui import small_store

META = {**handmade.META, "site": "resid_post.2", "model": "demo", "text": "t", "context": 8,
        "pre_edges": [0.0, 1.0]}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with the hand-made store, whose every kind of example is known, and labels."""
    root = tmp_path_factory.mktemp("export") / "workspace"
    folder = small_store.write_sae(root, "hand", n_features=6)
    handmade.write(folder / "features.duckdb", meta=META)
    run_folder = root / "autointerp/lexical-1"
    run_folder.mkdir(parents=True)
    (run_folder / "run.json").write_text(json.dumps({"sae": "hand"}))
    handmade.write_run(run_folder / "results.duckdb")
    small_store.write_sae(root, "bare")
    return root


def _do(root: Path, *words: object) -> int:
    return run.main(["export", *map(str, words), "--workspace", str(root)])


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_tables(root, tmp_path, capsys, format):
    out = tmp_path / "new" / "folder"
    assert _do(root, "hand", "--format", format, "--out", out, "--features", "1,3:5") == 0
    names = sorted(path.name for path in out.iterdir())
    tables = ("band", "doc", "example", "feature", "logit", "token")
    assert names == sorted([*(f"{table}.{format}" for table in tables), "meta.json"])
    assert capsys.readouterr().out == f"wrote {out}: {', '.join(names)}\n"
    assert json.loads((out / "meta.json").read_text())["export"]["features"] == 3
    assert [path.name for path in out.parent.iterdir()] == ["folder"]
    if format == "parquet":
        assert pq.read_table(out / "feature.parquet")["feature"].to_pylist() == [1, 3, 4]


def test_all_features_is_what_it_says_when_none_is_named(root, tmp_path):
    for number, words in enumerate(([], ["--features", "all"], ["--features", "0:6"])):
        out = tmp_path / str(number)
        assert _do(root, "hand", "--format", "jsonl", "--out", out, *words) == 0
        assert json.loads((out / "meta.json").read_text())["export"]["features"] == "all"
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "012"]
    assert files[0] == files[1] == files[2]


def test_neuronpedia(root, tmp_path):
    out = tmp_path / "out"
    assert _do(root, "hand", "--format", "neuronpedia", "--out", out) == 0
    where = out / "demo/2-hand"
    rows = {
        kind: [
            json.loads(line)
            for line in gzip.decompress((where / f"{kind}/batch-0.jsonl.gz").read_bytes())
            .decode()
            .splitlines()
        ]
        for kind in ("features", "activations", "explanations")
    }
    assert [row["index"] for row in rows["features"]] == ["0", "1", "2", "3", "4", "5"]
    kinds = [(row["index"], row["binContains"] == -1) for row in rows["activations"]]
    assert kinds == [("1", True), ("1", True), ("1", False), ("1", False), ("2", True), ("3", True)]
    first = rows["activations"][0]  # document 0 from token 1: É T | half an emoji | 100% | The
    assert first["tokens"] == ["ÉT", "\\xf0\\x9f", "100%", " The"]
    assert first["values"] == [1.5, 0, 3.0, 0] and first["qualifyingTokenIndex"] == 2
    assert [row["index"] for row in rows["explanations"]] == ["1", "2"], "4 failed, and is no label"
    assert json.loads((out / "meta.json").read_text())["sae"] == "hand"


def test_html_is_one_page_a_feature(root, tmp_path, capsys):
    out = tmp_path / "out"
    assert _do(root, "hand", "--format", "html", "--out", out, "--features", "0,1") == 0
    assert sorted(path.name for path in out.iterdir()) == ["feature-0.html", "feature-1.html"]
    page = (out / "feature-1.html").read_text("utf-8")
    assert "The article" in page and "r = 0.25 [0.10, 0.40]" in page
    order = [page.index(f"<h2>{title}") for title in
             ("Strongest", "By rank", "Sample of its fires", "Near misses", "Silent")]  # fmt: skip
    assert order == sorted(order), "kinds in the store's order"
    assert page.index("the strongest 1 %") < page.index("the weaker half")
    assert "dead" in (out / "feature-0.html").read_text("utf-8")


def test_html_of_many_features_pads_their_numbers(tmp_path):
    root = small_store.write_workspace(tmp_path / "workspace")
    out = tmp_path / "out"
    assert _do(root, "small", "--format", "html", "--out", out, "--features", "2,60:64") == 0
    assert [path.name for path in sorted(out.iterdir())][:2] == [
        "feature-02.html", "feature-60.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["hand", "--format", "csv"], "give --out DIR"),
        (["hand", "--format", "xlsx", "--out", "OUT"], "one of saelens, gemma_scope"),
        (["none", "--format", "csv", "--out", "OUT"], "no SAE 'none'"),
        (["bare", "--format", "csv", "--out", "OUT"], "run: python run.py harvest bare"),
        (["hand", "--format", "csv", "--out", "WORKSPACE"], "exists already"),
        (["hand", "--format", "html", "--out", "OUT"], "one page a feature, and hand has 6"),
        (["hand", "--out", "OUT", "--features", "1"], "saelens holds the weights of all"),
        (["hand", "--format", "csv", "--out", "OUT", "--features", "6"], "has features 0 to 5"),
        (["hand", "--format", "csv", "--out", "OUT", "--features", "4:7"], "has features 0 to 5"),
        (["hand", "--format", "html", "--out", "OUT", "--features", "x"], "'x' is no feature"),
    ],
)
def test_what_is_refused_leaves_nothing(root, tmp_path, capsys, words, says):
    out = tmp_path / "out"
    words = [str(out) if w == "OUT" else str(root) if w == "WORKSPACE" else w for w in words]
    before = sorted(root.rglob("*"))
    assert _do(root, *words) == 2
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 and says in told.err and told.out == ""
    assert list(tmp_path.iterdir()) == [] and sorted(root.rglob("*")) == before


def test_a_page_that_fails_half_way_leaves_nothing(root, tmp_path, monkeypatch):
    import ui.reports.feature_page as report

    made = []

    def breaks(stats, *rest):
        made.append(stats.feature)
        if len(made) == 3:
            raise OSError(28, "No space left on device")
        return "page"

    monkeypatch.setattr(report, "feature_page", breaks)
    out = tmp_path / "out"
    assert _do(root, "hand", "--format", "html", "--out", out, "--features", "all") == 2
    assert made == [0, 1, 2] and list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_meanwhile_is_kept(root, tmp_path, capsys, monkeypatch):
    from data import export_store

    out, write = tmp_path / "out", export_store.write_tables

    def somebody_is_faster(*given):
        out.mkdir()
        (out / "theirs").write_text("theirs")
        return write(*given)

    monkeypatch.setattr(export_store, "write_tables", somebody_is_faster)
    assert _do(root, "hand", "--format", "csv", "--out", out) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["theirs"]


def test_every_feature_format_is_tested_here():
    assert set(FEATURES) == {"parquet", "csv", "jsonl", "neuronpedia", "html"}
