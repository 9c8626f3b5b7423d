"""Every kind of source and its errors; hashes with known answers; shares of the splits."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import TextError
from data.records import Document
from data.text import (
    documents,
    min_hash,
    mix64,
    shingle_hashes,
    split_of,
    use_of,
    without_near_duplicates,
)
from tests import tiny

ROOT = Path(__file__).parents[2]


def _parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


# ---------------------------------------------------------------- sources


def test_text_file_is_one_document_under_its_name(tmp_path):
    (tmp_path / "one.txt").write_text("hello\nworld", encoding="utf-8")
    assert list(documents(str(tmp_path / "one.txt"))) == [Document("one.txt", "hello\nworld")]


def test_jsonl_takes_the_field_asked_for_and_skips_blank_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "a é", "text": "x"}\n\n{"body": "b"}\n', encoding="utf-8")
    found = list(documents(str(path), field="body"))
    assert found == [Document("rows.jsonl:0", "a é"), Document("rows.jsonl:2", "b")]


def test_parquet_takes_the_column_asked_for_and_leaves_out_empty_rows(tmp_path):
    path = _parquet(tmp_path / "rows.parquet", body=["a", None, "  ", "b"], other=[1, 2, 3, 4])
    found = list(documents(str(path), field="body"))
    assert found == [Document("rows.parquet:0", "a"), Document("rows.parquet:3", "b")]


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("z.txt", "a.md", "sub/m.py", "ignored.bin"):
        (tmp_path / name).write_text(f"text of {name}", encoding="utf-8")
    _parquet(tmp_path / "b.parquet", text=["row"])
    tiny.write_jsonl(tmp_path / "c.jsonl", ["line"])
    names = [d.name for d in documents(str(tmp_path))]
    assert names == ["a.md", "b.parquet:0", "c.jsonl:0", "sub/m.py", "z.txt"]


def _first(source, n):
    return [d for d, _ in zip(documents(source), range(n), strict=False)]


def test_the_standard_library_comes_in_hash_order_and_without_its_tests():
    first = _first("python:stdlib", 60)
    keys = [hashlib.blake2b(d.name.encode(), digest_size=8).digest() for d in first]
    assert keys == sorted(keys) and len({d.name for d in first}) == 60
    assert len({d.name.split("/")[0] for d in first}) > 15, "a fair sample, not one folder"
    assert not any(part in d.name.split("/") for d in first for part in ("test", "idle_test"))
    assert all(d.name.endswith(".py") and d.text.strip() for d in first)


def test_installed_packages_are_a_source_too():
    first = _first("python:installed", 5)
    assert first and all(d.name.endswith(".py") for d in first)


def test_bytes_that_are_no_utf8_become_replacement_characters(tmp_path):
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    assert next(documents(str(tmp_path / "latin.txt"))).text == "caf\ufffd au lait"


def test_lone_surrogates_become_replacement_characters(tmp_path):
    """JSON can spell them, UTF-8 cannot, and no tokenizer takes them."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "half \\ud83c emoji"}\n', encoding="utf-8")
    document = next(documents(str(path)))
    assert document.text == "half \ufffd emoji"
    assert isinstance(min_hash(document.text), int)


def test_a_file_name_that_is_no_utf8_still_has_a_name_to_print(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "w", encoding="utf-8") as file:
        file.write("text")
    assert next(documents(str(tmp_path))).name.encode("utf-8") == "\ufffd.txt".encode()


@pytest.mark.parametrize(
    ("source", "cure"),
    [
        ("no/such/file.txt", "give a file or folder"),
        ("", "give a file or folder"),
        ("   ", "give a file or folder"),
        ("python:nothing", "python:stdlib or python:installed"),
    ],
)
def test_sources_that_are_not_there(source, cure):
    with pytest.raises(TextError, match=cure):
        next(documents(source))


def test_a_folder_without_text_files_says_what_it_looked_for(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"1")
    with pytest.raises(TextError, match=r"looked for \.txt, \.md, \.py, \.jsonl, \.parquet"):
        next(documents(str(tmp_path)))


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_empty_text_is_refused(content, tmp_path):
    (tmp_path / "empty.txt").write_text(content)
    with pytest.raises(TextError, match="every document is empty; name another --text"):
        list(documents(str(tmp_path / "empty.txt")))


def _write(name, content):
    def write(folder):
        path = folder / name
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_write("a.jsonl", b'{"text": "x"}\n{"text": "y"\n'), "line 2 is not JSON"),
        (_write("a.jsonl", b'{"body": "x", "n": 1}\n'), "one of body, n"),
        (_write("a.jsonl", b'{"text": 5}\n'), "no text field 'text'"),
        (_write("a.jsonl", b'["text"]\n'), "no text field 'text'"),
        (_write("a.jsonl", b'{"text": "\xff\xfe"}\n'), "line 1 is not UTF-8"),
        (_write("a.parquet", b"PAR1 not really"), "cannot be read as Parquet"),
        (_write("a.parquet", b""), "cannot be read as Parquet"),
        (lambda f: _parquet(f / "a.parquet", body=["x"], n=[1]), "one of body, n"),
        (lambda f: _parquet(f / "a.parquet", text=[1, 2]), "column 'text' holds int64"),
        (lambda f: _parquet(f / "a.parquet", text=[["x"], ["y"]]), "column 'text' holds list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_cannot_be_read_as_text_are_refused_in_one_line(make, says, tmp_path):
    path = make(tmp_path)
    with pytest.raises(TextError, match=says) as refused:
        list(documents(str(path)))
    assert path.name in str(refused.value) and "\n" not in str(refused.value)


def test_a_hub_data_set_out_of_reach_is_refused(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr("data.hub.status", lambda path: (200, ""))
    with pytest.raises(TextError, match="data set 'nobody/nothing' cannot be read") as refused:
        list(documents("hf:nobody/nothing"))
    assert "\n" not in str(refused.value)


def test_a_hub_out_of_reach_is_said_before_its_client_retries(monkeypatch):
    monkeypatch.setattr("data.hub.status", lambda path: (None, "no route"))
    with pytest.raises(TextError, match="the hub cannot be reached .no route.: give a file"):
        list(documents("hf:nobody/nothing"))


def test_a_hub_data_set_gives_its_field_in_order(monkeypatch):
    import datasets

    asked = {}

    def rows(name, split, streaming):
        asked.update(name=name, split=split, streaming=streaming)
        return iter([{"body": "one"}, {"body": "two"}])

    monkeypatch.setattr(datasets, "load_dataset", rows)
    monkeypatch.setattr("data.hub.status", lambda path: (200, ""))
    found = list(documents("hf:some/set:validation", field="body"))
    assert [(d.name, d.text) for d in found] == [("some/set:0", "one"), ("some/set:1", "two")]
    assert asked == {"name": "some/set", "split": "validation", "streaming": True}


# ---------------------------------------------------------------- hashes


def test_mix64_is_splitmix64():
    """The generator's published first outputs from state 0: outputs are mix64 of 0, g, 2 g, ..."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(i * golden) % 2**64 for i in range(3)], dtype=np.uint64)
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix64(states).tolist() == known
    assert int(mix64(0)) == known[0] and mix64(0).dtype == np.uint64


def _shingles(text):
    words = text.split()
    width = min(8, len(words))
    return {tuple(words[i : i + width]) for i in range(max(len(words) - width + 1, 1))}


@pytest.mark.parametrize("n_words", [0, 1, 7, 8, 9, 40])
def test_there_is_one_hash_a_shingle(n_words):
    text = " ".join(f"w{i}" for i in range(n_words))
    assert len(shingle_hashes(text)) == len(_shingles(text)) == max(n_words - 7, 1)


def test_equal_shingles_have_equal_hashes_and_others_differ():
    a = shingle_hashes("one two three four five six seven eight nine")
    b = shingle_hashes("zero one two three four five six seven eight")
    assert a[0] == b[1] and len({*a.tolist(), *b.tolist()}) == 3
    assert shingle_hashes("a b").tolist() != shingle_hashes("b a").tolist(), "order matters"
    assert shingle_hashes("a  b\n").tolist() == shingle_hashes("a b").tolist(), "spaces do not"


def test_min_hashes_agree_as_often_as_the_jaccard_similarity_says():
    rng = np.random.default_rng(0)
    agree, similarity = [], []
    for _ in range(300):
        words = [f"w{i}" for i in rng.integers(0, 10_000, 60)]
        changed = list(words)
        changed[int(rng.integers(0, 60))] = "other"
        a, b = " ".join(words), " ".join(changed)
        one, two = _shingles(a), _shingles(b)
        similarity.append(len(one & two) / len(one | two))
        agree.append(min_hash(a) == min_hash(b))
    expected = np.mean(similarity)
    assert 0.6 < expected < 0.9
    assert abs(np.mean(agree) - expected) < 4 * np.sqrt(expected * (1 - expected) / 300)


# ---------------------------------------------------------------- splits


def test_shares_of_the_splits():
    minima = [min_hash(f"text number {i} of many") for i in range(6_000)]
    splits = [split_of(m) for m in minima]
    uses = [use_of(m) for m in minima]
    for names, name, share in [
        (splits, "heldout", 0.10),
        (uses, "explain", 0.60),
        (uses, "calibrate", 0.10),
        (uses, "score", 0.30),
    ]:
        assert abs(names.count(name) / 6_000 - share) < 4 * np.sqrt(share * (1 - share) / 6_000)
    assert set(splits) == {"train", "heldout"} and set(uses) == {"explain", "calibrate", "score"}
    both = sum(s == "heldout" and u == "score" for s, u in zip(splits, uses, strict=True))
    assert abs(both / 6_000 - 0.03) < 0.006, "the two splits are independent"


def test_near_duplicates_fall_on_the_same_side():
    rng = np.random.default_rng(1)
    same_split = same_use = 0
    for i in range(300):
        words = [f"{i}-{j}" for j in rng.integers(0, 10_000, 400)]
        changed = [*words, "a", "footer"]
        changed[200] = "edited"
        a, b = min_hash(" ".join(words)), min_hash(" ".join(changed))
        same_split += split_of(a) == split_of(b)
        same_use += use_of(a) == use_of(b)
    assert same_split >= 0.97 * 300 and same_use >= 0.94 * 300
    unrelated = [use_of(min_hash(f"a {i}")) == use_of(min_hash(f"b {i}")) for i in range(300)]
    assert np.mean(unrelated) < 0.65, "texts that share nothing fall independently"


def test_hashes_and_splits_do_not_depend_on_the_process():
    code = (
        "from data.text import min_hash, split_of, use_of\n"
        "m = [min_hash(t) for t in ('', 'a', 'caf\\u00e9 \\U0001f469', 'w ' * 50)]\n"
        "print([(x, split_of(x), use_of(x)) for x in m])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    m = [min_hash(t) for t in ("", "a", "café \U0001f469", "w " * 50)]
    assert outputs == {f"{[(x, split_of(x), use_of(x)) for x in m]}\n"}


def test_without_near_duplicates_keeps_the_first_of_each():
    long = " ".join(f"word{i}" for i in range(300))
    stream = [
        Document("first", long),
        Document("copy", long),
        Document("edited", long.replace("word150", "changed")),
        Document("other", " ".join(f"another{i}" for i in range(300))),
        Document("short", "two words"),
        Document("short again", "two  words"),
        Document("half", " ".join(f"word{i}" for i in range(60)) + " new" * 400),
    ]
    kept = [d.name for d in without_near_duplicates(iter(stream))]
    assert kept == ["first", "other", "short", "half"]


# ---------------------------------------------------------------- hard texts


@pytest.mark.parametrize(
    "text",
    [
        "null \x00 byte",
        "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
        "\u202eשלום עולם\u202c مرحبا",
        "x" * 1_000_000,
        "e\u0301 combining \u0000\u0001\ufeff",
    ],
    ids=["null", "joiners", "right-to-left", "megabyte", "combining"],
)
def test_hard_texts_pass_unchanged_and_have_a_split(text, tmp_path):
    path = tmp_path / "hard.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    (found,) = documents(str(path))
    assert found.text == text
    assert 0 <= min_hash(text) < 2**64 and split_of(min_hash(text)) in ("train", "heldout")
