"""The folder everything lives in, and how a result gets into it whole or not at all.

In:  the path of a workspace; names of SAEs, activation caches and auto-interp runs.
Out: paths; the small JSON files as dicts; context managers under which a file or a folder is
     written beside its final name and appears there in one rename.

    saes/<name>/         cfg.json  sae_weights.safetensors  train.jsonl  metrics.json
                         features.duckdb  extra/<kind>-<hash>.duckdb
    activations/<hash>/  shards and manifest.json
    autointerp/<run>/    run.json  results.duckdb  calls.jsonl  batches/
    arms/<study>/        plan.json  plan.sha256  ran.json  runs/  report.*: several SAEs compared
    lms/<name>/          language models whose weights were drawn again
    llm_cache/<key>.json every reply of a language-model service, kept (data/llm_cache.py)
    jobs/<id>/           job.json  progress.jsonl  log.txt
    lab.jsonl            what people wrote about features; lab.duckdb is its index

    saes/.<name>.unfinished/  train.jsonl  checkpoint/: a training run that can be resumed
    saes/.<name>.harvest/     the same of a harvest

Unfinished work is called `.<name>.part-<pid>...`, a result on its way out `.<name>.old-<pid>`. A
process that is killed leaves those behind and never a half-written final name; the next writer
clears them away.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import StoreError, WorkspaceError

# A full disk or quota, a folder one may not write in, a limit on the size of files.
NOT_WRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG
}  # fmt: skip
LEFT_OVER = re.compile(r"^\.(?P<name>.+)\.(?P<state>part|old)-(?P<pid>\d+)")


@dataclass(frozen=True)
class Workspace:
    """One workspace folder. Holds no handle and no state: every answer is read from the disk."""

    root: Path

    @classmethod
    def open(cls, path: str | Path) -> Workspace:
        """The workspace at `path`, created if missing; WorkspaceError if a file is there."""
        root = Path(path).expanduser().resolve()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise WorkspaceError(
                f"{root} cannot be a workspace: a file is in the way; name a folder"
            ) from None
        except OSError as error:
            raise WorkspaceError(
                f"{root} cannot be created ({error.strerror}); name a folder you may write"
            ) from None
        return cls(root)

    @property
    def saes(self) -> list[str]:
        """Names of the finished SAEs, sorted."""
        folder = self.root / "saes"
        if not folder.is_dir():
            return []
        return sorted(p.name for p in folder.iterdir() if not _hidden(p) and _finished(p))

    def sae(self, name: str) -> Path:
        """The folder of a finished SAE; WorkspaceError naming those there are."""
        path = self.root / "saes" / _checked(name)
        if not _finished(path):
            there = ", ".join(self.saes) or "none yet"
            raise WorkspaceError(f"no SAE {name!r} in {self.root}: there is {there}")
        return path

    def refuse_taken(self, name: str, replace: bool = False) -> None:
        """WorkspaceError if saes/<name> exists and is not to be replaced: before any long work."""
        if (self.root / "saes" / _checked(name)).exists() and not replace:
            raise WorkspaceError(
                f"saes/{name} exists already; choose another name, or give --replace"
            )

    def feature_store(self, name: str) -> Path:
        """features.duckdb of a finished SAE; StoreError if it was never harvested."""
        path = self.sae(name) / "features.duckdb"
        if not path.exists():
            raise StoreError(f"{name} has no features yet; run: python run.py harvest {name}")
        return path

    def extra(self, name: str, kind: str) -> list[Path]:
        """extra/<kind>-<hash>.duckdb of an SAE (effects, neighbours, map), the newest first."""
        found = (self.sae(name) / "extra").glob(f"{_checked(kind)}-*.duckdb")
        return sorted(found, key=lambda p: (-p.stat().st_mtime_ns, p.name))

    def new_extra(self, name: str, kind: str, hash: str) -> Path:
        """Where such a file belongs; `publish` writes it. Its folder is made."""
        folder = self.sae(name) / "extra"
        folder.mkdir(exist_ok=True)
        return folder / f"{_checked(kind)}-{_checked(hash)}.duckdb"

    @contextmanager
    def new_sae(self, name: str, replace: bool = False) -> Iterator[Path]:
        """Yields an empty folder that becomes saes/<name> if the block ends without an error.

        Raises WorkspaceError if the name is taken and `replace` is False, or if another process
        is making it. With `replace` the old folder stays in place until the new one is whole.
        """
        with _new_folder(self.root / "saes" / _checked(name), replace) as part:
            yield part

    def unfinished(self, name: str) -> Path:
        """saes/.<name>.unfinished, where a run of that name keeps what it needs to be resumed."""
        return self.root / "saes" / f".{_checked(name)}.unfinished"

    @contextmanager
    def unfinished_harvest(self, name: str, keep: bool) -> Iterator[Path]:
        """Yields a folder in saes/.<name>.harvest for what a harvest needs to be resumed.

        Emptied first unless `keep`, and gone when the block ends without an error: in one step, so
        that a kill leaves all of it or none. WorkspaceError while another process harvests that
        SAE.
        """
        folder = self.root / "saes" / f".{_checked(name)}.harvest"
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder, os.O_RDONLY)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise WorkspaceError(
                        f"{name} is being harvested by another process: wait until it ends, or "
                        "end it"
                    ) from None
                _remove(folder / "gone")
                state = folder / "state"
                if not keep:
                    _discard(state)
                state.mkdir(exist_ok=True)
                yield state
                _discard(state)
                folder.rmdir()
            finally:
                os.close(lock)

    def activations(self, hash: str) -> Path:
        """Where the activation cache of that hash is, or would be."""
        return self.root / "activations" / _checked(hash)

    @contextmanager
    def new_activations(self, hash: str) -> Iterator[Path]:
        """Like `new_sae`, for activations/<hash>."""
        with _new_folder(self.activations(hash), replace=False) as part:
            yield part

    def runs(self, sae: str) -> list[str]:
        """Names of the auto-interp runs whose run.json names that SAE, the newest first."""
        found = []
        for about in (self.root / "autointerp").glob("*/run.json"):
            if not _hidden(about.parent) and _read_json(about).get("sae") == sae:
                results = about.with_name("results.duckdb")
                newest = results if results.is_file() else about
                found.append((-newest.stat().st_mtime_ns, about.parent.name))
        return [name for _, name in sorted(found)]

    def run(self, name: str) -> Path:
        """Where the auto-interp run of that name is, or would be."""
        return self.root / "autointerp" / _checked(name)

    def results(self, sae: str) -> Path | None:
        """results.duckdb whose labels stand in lists: of the newest run of that SAE by a judge (not
        by people) that explains at least half as many features as its largest; None: there is none.
        """
        found: list[tuple[Path, float]] = []
        for name in self.runs(sae):
            path, about = self.run(name) / "results.duckdb", _read_json(self.run(name) / "run.json")
            if path.is_file() and about.get("judge") != "people":
                features = about.get("features")
                found.append((path, features if isinstance(features, int) else float("inf")))
        counted = [n for _, n in found if n != float("inf")]
        most = max(counted, default=0)
        return next((path for path, n in found if 2 * n >= most), None)

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def llm_cache(self) -> Path:
        return self.root / "llm_cache"

    @property
    def lab_journal(self) -> Path:
        return self.root / "lab.jsonl"

    @property
    def lab_index(self) -> Path:
        return self.root / "lab.duckdb"

    def config(self, name: str) -> dict:
        """cfg.json of an SAE."""
        return _read_json(self.sae(name) / "cfg.json")

    def metrics(self, name: str) -> dict | None:
        """metrics.json of an SAE; None if it was never evaluated."""
        path = self.sae(name) / "metrics.json"
        return _read_json(path) if path.is_file() else None

    def training(self, name: str) -> list[dict]:
        """Rows of train.jsonl, [] without the file; a torn last line is left out."""
        path = self.sae(name) / "train.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                if number < len(lines):
                    raise WorkspaceError(
                        f"{path} line {number} is not JSON: {line[:60]!r}; train it again"
                    ) from None
        return rows


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says in one sentence that the disk does not let `path` be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        what = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        raise WorkspaceError(
            f"{path} could not be written ({what}): free some space, or choose a workspace you "
            "may write; what was there before is untouched"
        ) from None


@contextmanager
def publish(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path`; what the block writes there becomes `path` in one rename.

    The data is on the disk before the rename. If the block raises, the temporary file goes; an
    error of the disk becomes a WorkspaceError.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part-{os.getpid()}-{threading.get_ident()}")
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _clear_left_overs(path.parent)
            yield part
            _sync(part)
            os.replace(part, path)
            _sync(path.parent)
    finally:  # with what a writer keeps beside its file: `.wal`, `.tmp`
        for left in path.parent.glob(f"{part.name}*"):
            _remove(left)


@contextmanager
def _new_folder(final: Path, replace: bool) -> Iterator[Path]:
    with _told(final), _made_beside(final, replace) as part:
        yield part


@contextmanager
def _made_beside(final: Path, replace: bool) -> Iterator[Path]:
    final.parent.mkdir(parents=True, exist_ok=True)
    _clear_left_overs(final.parent)
    kind = f"{final.parent.name}/{final.name}"
    if final.exists() and not replace:
        raise WorkspaceError(f"{kind} exists already; choose another name, or give --replace")
    for other in final.parent.glob(f".{final.name}.part-*"):
        pid = LEFT_OVER.match(other.name)["pid"]
        raise WorkspaceError(f"{kind} is being made by process {pid}; wait for it, or end it")
    part = final.with_name(f".{final.name}.part-{os.getpid()}")
    part.mkdir()
    lock = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tells other containers that this folder is in use
        yield part
        for path in [*part.rglob("*"), part]:
            _sync(path)
        _swap_in(part, final, replace)
    finally:
        os.close(lock)
        _remove(part)


def _swap_in(part: Path, final: Path, replace: bool) -> None:
    """Renames `part` to `final`, moving an older folder of that name away first."""
    old = final.with_name(f".{final.name}.old-{os.getpid()}")
    if replace and final.exists():
        os.rename(final, old)
    try:
        os.rename(part, final)
    except OSError:
        raise WorkspaceError(
            f"{final} appeared while it was being made; choose another name, or give --replace"
        ) from None
    _sync(final.parent)
    _remove(old)


def _clear_left_overs(folder: Path) -> None:
    """Removes what killed writers left in `folder`; an old result without successor comes back."""
    for path in folder.glob(".*"):
        match = LEFT_OVER.match(path.name)
        if match is None or _in_use(path, int(match["pid"])):
            continue
        final = folder / match["name"]
        if match["state"] == "old" and not final.exists():
            os.rename(path, final)
        else:
            _remove(path)


def _in_use(path: Path, pid: int) -> bool:
    """Whether the process that made `path` still runs.

    A process in another container has another number here, so a held folder lock counts as well.
    """
    try:
        os.kill(pid, 0)
        return True
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # gone meanwhile: its owner finished
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def _checked(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}", name) is None:
        raise WorkspaceError(
            f"{name!r} cannot be a name: use letters, digits, '.', '_' and '-', "
            "at most 120 of them, the first no '.'"
        )
    return name


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _finished(path: Path) -> bool:
    return (path / "cfg.json").is_file() and (path / "sae_weights.safetensors").is_file()


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{path} is not JSON ({error}); make it again") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _discard(folder: Path) -> None:
    """Removes a folder that is read by its name, which it loses first."""
    if folder.exists():
        gone = folder.with_name("gone")
        os.rename(folder, gone)
        _remove(gone)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
