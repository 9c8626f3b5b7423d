"""What a store does when things go wrong: damage, full disks, the wrong SAE, texts that leak, and
files that are replaced while others read them."""

from __future__ import annotations

import hashlib
import os
import random
import re
import resource
import shutil
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from bench.made_up.feature_store import FULL, MadeUp, Plan
from data import schema
from data.errors import StoreError, WorkbenchError, WorkspaceError
from data.features_store import FeatureStore, write_features
from data.records import FeatureFilter
from data.runs_store import write_results
from data.schema import USES, open_root
from data.workspace import Workspace, publish
from tests.data import handmade

REPOSITORY = Path(__file__).resolve().parents[2]
FEATURES = 96
HEADER, BLOCK = 4096, 262_144  # bytes: three headers, then blocks (DuckDB's storage format)


def plan(seed: int) -> Plan:
    return Plan(FEATURES, 32, FULL, documents=40, longest=5_000, vocabulary=500, seed=seed)


def made_up(path: Path, seed: int = 0) -> str:
    return write_features(path, {"seed": seed}, MadeUp(plan(seed)).tables())


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> list[Path]:
    """Two stores of the same size and other content. To be read only."""
    folder = tmp_path_factory.mktemp("stores")
    for seed in (0, 1):
        made_up(folder / f"{seed}.duckdb", seed)
    return [folder / f"{seed}.duckdb" for seed in (0, 1)]


@pytest.fixture
def root():
    root = open_root()
    yield root
    root.close()


# ---------------------------------------------------------------- replaced under readers


def _seen(store: FeatureStore, i: int) -> tuple:
    """Feature `i` as three calls tell it; each reads the file that is there then."""
    return store.feature(i), store.examples(i), store.rows(FeatureFilter(feature=i))[0]


def test_eight_threads_read_their_own_rows_while_new_files_appear(stores, tmp_path, root):
    path = Path(shutil.copy(stores[0], tmp_path / "features.duckdb"))
    store = FeatureStore(root, path)
    expected = [
        {i: _seen(FeatureStore(root, other), i) for i in range(FEATURES)} for other in stores
    ]
    assert all(expected[0][i] != expected[1][i] for i in range(FEATURES))
    stop, wrong, reads, last = threading.Event(), [], [0] * 8, {}

    def read(thread: int) -> None:
        try:
            while not stop.is_set():
                i = 8 * (reads[thread] % (FEATURES // 8)) + thread
                for part, told in enumerate(_seen(store, i)):
                    if told not in (expected[0][i][part], expected[1][i][part]):
                        wrong.append((thread, i, part))
                reads[thread] += 1
            last[thread] = _seen(store, thread) == expected[1][thread]
        except Exception as error:  # told below
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for n in range(5):
        with publish(path) as part:
            shutil.copyfile(stores[(n + 1) % 2], part)
    while min(reads) < 2 and not wrong:
        stop.wait(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and last == dict.fromkeys(range(8), True), "the last one published is seen"


# ---------------------------------------------------------------- damage


def _everything(root: schema.Root, path: Path) -> str:
    """All that readers can ask of a store, of every table and column."""
    store = FeatureStore(root, path)
    lists = [store.rows(FeatureFilter(sort=sort, page_size=200)) for sort in ("q99", "peak_token")]
    features = [
        (store.feature(i), store.logits(i), store.logits(i, False), store.examples(i))
        for i in range(0, FEATURES, 5)
    ]
    densities = [column.tobytes() for column in store.densities()]
    return repr((store.meta, store.summary(), store.vocabulary(), lists, features, densities))


@pytest.fixture(scope="module")
def told(stores) -> str:
    root = open_root()
    yield _everything(root, stores[0])
    root.close()


def _regions(size: int) -> list[tuple[int, int]]:
    """(first byte, length): the three headers, then every block of data and meta data."""
    headers = [(HEADER * n, HEADER) for n in range(3)]
    return headers + [(at, min(BLOCK, size - at)) for at in range(3 * HEADER, size, BLOCK)]


def test_a_flipped_byte_anywhere_is_told_or_changes_nothing(stores, told, tmp_path, root):
    """In every header and block; unused ones change nothing. The other store goes on."""
    whole, rng, found = stores[0].read_bytes(), random.Random(0), []
    regions = _regions(len(whole))
    assert len(regions) >= 8
    for number, (first, length) in enumerate(regions):
        damaged = bytearray(whole)
        damaged[first + rng.randrange(length)] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{number}.duckdb"
        path.write_bytes(damaged)
        try:
            assert _everything(root, path) == told, "wrong numbers are worse than none"
        except StoreError as error:
            assert f"{path} cannot be read as a DuckDB" in str(error)
            assert "make it again" in str(error)
            found.append(number)
        path.unlink()
    assert set(found) >= {0, 1, 2} and len(found) > 0.6 * len(regions)
    assert FeatureStore(root, stores[1]).feature(3).feature == 3, "the root lives on"


def test_damage_that_arrow_comes_upon_is_told(stores, root):
    """What DuckDB finds while Arrow streams its rows comes as an OSError of Arrow."""
    with pytest.raises(StoreError, match="cannot be read as a DuckDB .* make it again"):
        with root.reading(stores[0]):
            raise OSError("Data Corruption Error: Corrupt database file: computed checksum 1")
    with pytest.raises(FileNotFoundError), root.reading(stores[0]):
        raise FileNotFoundError(2, "No such file or directory")


def test_a_store_cut_short_anywhere_is_told(stores, told, tmp_path, root):
    whole = stores[0].read_bytes()
    keep = [0, 1, HEADER - 1, HEADER, 3 * HEADER, 3 * HEADER + 1, len(whole) // 2]
    for number, n in enumerate([*keep, len(whole) - 2 * BLOCK, len(whole) - BLOCK - 1]):
        path = tmp_path / f"{number}.duckdb"
        path.write_bytes(whole[:n])
        with pytest.raises(StoreError, match="make it again"):
            _everything(root, path)
    assert FeatureStore(root, stores[0]).n_features == FEATURES


# ---------------------------------------------------------------- disks that refuse


@contextmanager
def largest_file(size: int):
    """No file may grow beyond `size` bytes, as on a disk with so much room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 5_000, 300_000, 1_000_000])
def test_a_full_disk_leaves_the_old_store(stores, tmp_path, room):
    path = Path(shutil.copy(stores[0], tmp_path / "features.duckdb"))
    before = path.read_bytes()
    with largest_file(room), pytest.raises(StoreError) as full:
        made_up(path, 1)
    assert re.search(r"features\.duckdb could not be written \(.*File too large", str(full.value))
    assert "free some space" in str(full.value) and "\n" not in str(full.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["features.duckdb"]


def test_a_full_disk_under_any_other_file_is_told(tmp_path):
    with (
        largest_file(100),
        pytest.raises(WorkspaceError, match="x.bin could not be written .File too large"),
        publish(tmp_path / "x.bin") as part,
    ):
        part.write_bytes(bytes(1000))
    workspace = Workspace.open(tmp_path)
    for folder in (workspace.new_sae("a"), workspace.unfinished_harvest("b", keep=False)):
        with largest_file(100), pytest.raises(WorkspaceError, match="free some space"):
            with folder as part:
                (part / "state").write_bytes(bytes(1000))
    assert workspace.saes == []


@contextmanager
def no_longer_root():
    """Root may write everywhere, so it steps down for the while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_one_may_not_write_is_told(stores):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "sae"
        folder.mkdir()
        path = Path(shutil.copy(stores[0], folder / "features.duckdb"))
        before = path.read_bytes()
        folder.chmod(0o555)
        Path(made).chmod(0o755)
        path.chmod(0o444)
        with no_longer_root():
            with pytest.raises(StoreError, match=r"features\.duckdb could not be written"):
                made_up(path, 1)
            with pytest.raises(WorkspaceError, match="could not be written .Permission denied"):
                made_up(folder / "below" / "features.duckdb", 1)
            root = open_root()
            assert FeatureStore(root, path).n_features == FEATURES, "it can still be read"
            root.close()
        assert path.read_bytes() == before and [p.name for p in folder.iterdir()] == [path.name]
        folder.chmod(0o755)


# ---------------------------------------------------------------- limits of DuckDB


def test_every_instance_has_limits(tmp_path, monkeypatch):
    """Whoever opens one: memory, threads and a folder for what does not fit are set."""
    made, real = [], duckdb.connect

    def connect(*args, **options):
        con = real(*args, **options)
        rows = con.execute("SELECT name, value FROM duckdb_settings()").fetchall()
        made.append({"path": args[0], **dict(rows)})
        return con

    monkeypatch.setattr(duckdb, "connect", connect)
    open_root().close()
    made_up(tmp_path / "features.duckdb")
    write_results(tmp_path / "results.duckdb", {}, [], [])
    assert len(made) == 3
    for settings in made:
        assert settings["memory_limit"] in ("953.6 MiB", "1.8 GiB"), (
            "not four fifths of the machine"
        )
        assert settings["threads"] == "2"
        beside = settings["path"] != ":memory:"
        assert settings["temp_directory"].startswith(settings["path"] if beside else "/")
        assert settings["autoinstall_known_extensions"] == "false"


def test_one_place_makes_instances():
    calls = []
    for path in REPOSITORY.rglob("*.py"):
        parts = path.relative_to(REPOSITORY).parts
        if parts[0] in ("sae", "data", "interp", "ui", "commands", "app.py", "run.py"):
            calls += [path.name] * path.read_text("utf-8").count("duckdb.connect(")
    assert calls == ["schema.py"]


# ---------------------------------------------------------------- the SAE it belongs to


def _beside(folder: Path, weights: bytes, made_from: bytes) -> Path:
    """A store made from `made_from`, in the folder of an SAE with `weights`."""
    folder.mkdir(parents=True)
    (folder / "sae_weights.safetensors").write_bytes(weights)
    about = handmade.META | {"weights_sha256": hashlib.sha256(made_from).hexdigest()}
    handmade.write(folder / "features.duckdb", meta=about)
    return folder / "features.duckdb"


def test_a_store_of_another_sae_is_refused(tmp_path, root):
    right = _beside(tmp_path / "right", b"ours", b"ours")
    wrong = _beside(tmp_path / "wrong", b"theirs", b"ours")
    assert FeatureStore(root, right).n_features == 6
    other = hashlib.sha256(b"theirs").hexdigest()[:12]
    for call in (
        lambda s: s.meta,
        lambda s: s.feature(1),
        lambda s: s.examples(1),
        lambda s: s.rows(FeatureFilter()),
    ):
        with pytest.raises(
            StoreError, match=f"{wrong} was made from other weights .* {other}|{other}"
        ) as e:
            call(FeatureStore(root, wrong))
        assert "make it again" in str(e.value) and other in str(e.value)
    wrong.with_name("sae_weights.safetensors").write_bytes(b"ours")
    assert FeatureStore(root, wrong).n_features == 6, "asked again after the cure"
    attached = root.cursor().execute("SELECT count(*) FROM duckdb_databases() WHERE NOT internal")
    assert attached.fetchone()[0] <= 3


def test_weights_are_read_again_only_when_they_changed(tmp_path, root, monkeypatch):
    path = _beside(tmp_path / "one", b"ours", b"ours")
    hashed, real = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: hashed.append(file.name) or real(file, name)
    )
    for _ in range(3):
        assert FeatureStore(root, path).n_features == 6
    handmade.write(
        path, meta=handmade.META | {"weights_sha256": hashlib.sha256(b"ours").hexdigest()}
    )
    assert FeatureStore(root, path).n_features == 6
    assert len(hashed) == 1
    path.with_name("sae_weights.safetensors").write_bytes(b"others")
    handmade.write(
        path, meta=handmade.META | {"weights_sha256": hashlib.sha256(b"ours").hexdigest()}
    )
    with pytest.raises(StoreError, match="made from other weights"):
        FeatureStore(root, path).meta  # noqa: B018
    assert len(hashed) == 2


def test_results_in_extra_belong_to_the_sae_too(tmp_path, root):
    path = _beside(tmp_path / "one", b"theirs", b"ours")
    (tmp_path / "one/extra").mkdir()
    moved = path.rename(tmp_path / "one/extra/features-0.duckdb")
    with pytest.raises(StoreError, match="made from other weights"):
        FeatureStore(root, moved).meta  # noqa: B018


def test_a_store_alone_can_be_read(tmp_path, root):
    path = _beside(tmp_path / "one", b"theirs", b"ours")
    assert FeatureStore(root, Path(shutil.copy(path, tmp_path / "alone.duckdb"))).n_features == 6


# ---------------------------------------------------------------- texts that leak


@pytest.fixture
def leaky(tmp_path, root):
    """(a store that a test may change, what changes it)."""
    handmade.write(tmp_path / "features.duckdb")

    def change(sql: str) -> FeatureStore:
        with duckdb.connect(str(tmp_path / "features.duckdb")) as con:
            con.execute(sql)
        return FeatureStore(root, tmp_path / "features.duckdb")

    return change


def _hash(store: FeatureStore) -> str:
    with duckdb.connect(str(store.path), read_only=True) as con:
        return schema.content_hash(con)


def test_a_document_put_to_another_use_leaves_its_old_view(leaky):
    store = leaky("""UPDATE document SET "use" = 'score' WHERE doc = 0""")
    found = {use: {e.doc for e in store.examples_for(range(6), use)[1]} for use in USES}
    assert found == {"explain": {7}, "calibrate": {2}, "score": {0, 1}}
    assert _hash(store) != store.meta["content_hash"], "and the file no longer proves itself"


def test_a_document_of_no_known_use_is_in_no_view(leaky):
    store = leaky("""UPDATE document SET "use" = 'anything' WHERE doc IN (0, 7)""")
    assert store.examples_for([1], "explain") == {1: []}


@pytest.mark.parametrize(
    "view",
    [
        "SELECT * FROM example_any",
        """SELECT * REPLACE ('explain' AS "use") FROM example_any""",
        """SELECT * FROM example_any WHERE "use" <> 'calibrate'""",
    ],
)
def test_a_view_that_was_redefined_is_refused(leaky, view):
    store = leaky(f"CREATE OR REPLACE VIEW example_explain AS {view}")
    for ask in (
        lambda: store.examples_for([1], "explain"),
        lambda: store.examples(1, use="explain"),
    ):
        with pytest.raises(
            StoreError, match="example_explain of .* for another use: it was changed"
        ):
            ask()
    assert {e.doc for e in store.examples_for([1], "score")[1]} == {1}, "the others still serve"


def test_errors_of_a_store_are_of_the_tree():
    assert issubclass(StoreError, WorkbenchError) and issubclass(WorkspaceError, WorkbenchError)


# ---------------------------------------------------------------- what a harvest leaves to resume


def test_what_can_be_resumed_goes_in_one_step(tmp_path, monkeypatch):
    """A kill while it is removed leaves no part of it, which could be taken for the whole."""
    workspace = Workspace.open(tmp_path)

    def files() -> list[str]:
        with workspace.unfinished_harvest("a", keep=True) as state:
            found = sorted(path.name for path in state.iterdir())
            raise KeyError(*found)  # so that it stays

    def begin(keep: bool) -> None:
        with pytest.raises(InterruptedError), workspace.unfinished_harvest("a", keep) as state:
            for name in ("harvest.json", "block-0.npz", "feature-0.arrow"):
                (state / name).write_text("x")
            raise InterruptedError

    def left() -> tuple[str, ...]:
        with pytest.raises(KeyError) as found:
            files()
        return found.value.args

    begin(keep=True)
    assert left() == ("block-0.npz", "feature-0.arrow", "harvest.json")
    real = shutil.rmtree
    for keep in (False, True):  # killed while it is emptied, and when all is done
        begin(keep=True)

        def killed(folder, **options):
            next(Path(folder).iterdir()).unlink()
            raise KeyboardInterrupt

        monkeypatch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt), workspace.unfinished_harvest("a", keep):
            pass
        monkeypatch.setattr(shutil, "rmtree", real)
        assert left() == ()
    with workspace.unfinished_harvest("a", keep=True):
        pass
    assert list((tmp_path / "saes").iterdir()) == []


def test_a_meta_that_is_no_json_is_told_and_told_again(stores, root, tmp_path):
    path = Path(shutil.copy(stores[0], tmp_path / "features.duckdb"))
    with duckdb.connect(str(path)) as con:
        con.execute("UPDATE meta SET value = '{' WHERE key = 'seed'")
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be read"):
            root.attach(path)
