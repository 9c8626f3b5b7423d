"""`verify`: a feature store held against the model, the SAE and the text it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from data.verify_store import VerifyStore
    from interp.recompute import Recomputer
    from interp.tally import Check


@dataclass(frozen=True)
class Verify:
    """Compute examples and statistics of a feature store again and compare. Exits with 1 if any
    number differs by more than the tolerance."""

    name: str  # of the SAE
    sample: int | Literal["all"] = 200  # features looked at, drawn by the seed
    features: str = "all"  # out of these: all, or numbers and ranges, as 0:100,205
    examples: int | Literal["all"] = 10  # of each of these features, drawn by the seed
    statistics: Literal["yes", "no"] = "no"  # count over the whole corpus again, as a harvest does
    tolerance: float = 1e-4  # relative
    json: bool = False  # print one JSON object
    device: str = "auto"
    seed: int = 0
    workspace: Path = Path("workspace")


def run(args: Verify) -> int:
    from data.schema import open_root
    from data.verify_store import VerifyStore
    from data.workspace import Workspace

    _refuse_odd(args)
    workspace = Workspace.open(args.workspace)
    folder, path = workspace.sae(args.name), workspace.feature_store(args.name)
    root = open_root()
    try:
        store = VerifyStore(root, path)
        checks, notes = [], []
        for check in _checks(args, folder, store, notes):
            checks.append(check)
    finally:
        root.close()
    wrong = sum(check.wrong for check in checks)
    if args.json:
        _print_json(checks, notes, wrong)
    else:
        _print_table(checks, notes, wrong)
    return 1 if wrong else 0


def _refuse_odd(args: Verify) -> None:
    from data.errors import WorkbenchError

    if not args.tolerance > 0:
        raise WorkbenchError(f"--tolerance {args.tolerance:g}: give a number above 0")
    for name in ("sample", "examples"):
        number = getattr(args, name)
        if number != "all" and number < 1:
            raise WorkbenchError(f"--{name} {number}: give 1 or more, or all")


def _checks(args: Verify, folder: Path, store: VerifyStore, notes: list[str]) -> Iterator[Check]:
    """All checks, the quick ones first; `notes` gets what else should be told."""
    from interp import verify_rules
    from interp.engine import join
    from interp.recompute import Documents, recomputer_of

    meta = store.meta
    sae, lm, _ = join(folder, args.device)
    same = verify_rules.identity(meta, _now(folder, sae, lm, store))
    yield same
    if same.wrong:
        notes.append("nothing else was compared: make the store again with harvest")
        return
    chosen = _chosen(args, sae.d_sae)
    yield from (verify_rules.rule(*rule) for rule in store.rules())
    documents, stored, examples = store.documents(), store.features(chosen), store.examples(chosen)
    yield verify_rules.splits(documents)
    bands = store.bands(chosen)
    yield verify_rules.weights(examples, verify_rules.sizes(stored, bands))
    recomputer = recomputer_of(sae, lm, meta, Documents.of(documents), store.ids)
    yield from _examples(args, recomputer, examples, stored)
    if args.statistics == "yes":
        yield from _statistics(args, recomputer, meta, stored, bands)
    else:
        notes.append("statistics were not counted again: --statistics yes")
    drawn = "all" if args.examples == "all" else f"at most {args.examples}"
    notes.append(f"looked at {drawn} examples of each of {len(chosen):,} of {sae.d_sae:,} features")
    notes.append(f"float noise of a pre-activation: {recomputer.noise:.1g} |x| |W_enc|")


def _now(folder: Path, sae, lm, store: VerifyStore) -> dict[str, object]:
    """What the store's meta should say."""
    import hashlib

    with (folder / "sae_weights.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    tokenizer = hashlib.sha256(lm.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    return {
        "weights_sha256": weights,
        "lm_weights": lm.fingerprint,
        "tokenizer": tokenizer,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "content_hash": store.content_hash(),
    }


def _chosen(args: Verify, d_sae: int) -> np.ndarray:
    """Sorted numbers of the features to look at."""
    import numpy as np

    from commands.feature_list import feature_list

    features = np.array(feature_list(args.features, d_sae), dtype=np.int64)
    if args.sample == "all":
        return features
    drawn = np.random.default_rng(args.seed).permutation(len(features))[: args.sample]
    return features[np.sort(drawn)]


def _examples(args: Verify, recomputer: Recomputer, columns: dict, stored: dict) -> list[Check]:
    import numpy as np

    from commands.progress import track
    from interp.verify import ExampleCheck, ExampleRows

    rows = ExampleRows(**{name: columns[name] for name in ExampleRows._fields})
    pre_unit = np.full(recomputer.sae.d_sae, np.nan)
    pre_unit[stored["feature"]] = stored["pre_unit"]
    drawn = _drawn(rows.feature, args.examples, args.seed)
    check = ExampleCheck(recomputer, rows, drawn, pre_unit, args.tolerance)
    for _ in track(check, "examples", lambda s: (s.done, s.total), _contexts):
        pass
    return check.checks


def _drawn(feature: np.ndarray, n: int | str, seed: int) -> np.ndarray:
    """Sorted row numbers: at most n of each feature, drawn by the seed."""
    import numpy as np

    if n == "all":
        return np.arange(len(feature))
    shuffled = np.random.default_rng([seed, 1]).permutation(len(feature))
    order = shuffled[np.argsort(feature[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(feature[order], prepend=-1))
    lengths = np.diff(starts, append=len(order))
    place = np.arange(len(order)) - np.repeat(starts, lengths)
    return np.sort(order[place < n])


def _statistics(
    args: Verify, recomputer: Recomputer, meta: dict, stored: dict, bands: dict
) -> list[Check]:
    import numpy as np

    from commands.progress import track
    from interp.verify_counts import Counts
    from interp.verify_statistics import StatisticsCheck, rules_of

    counts = Counts(recomputer, stored["feature"], rules_of(meta, stored))
    for _ in track(counts, "statistics", lambda s: (s.done, s.total), _contexts):
        pass
    floor = recomputer.sae.floor.detach().cpu().numpy().astype(np.float32)[stored["feature"]]
    return StatisticsCheck(meta, stored, bands, floor, counts, args.tolerance).checks()


def _contexts(step) -> str:
    return f"{step.done:,} contexts"


# ---------------------------------------------------------------- what is told


def _print_table(checks: list[Check], notes: list[str], wrong: int) -> None:
    print(f"{'':<52}{'compared':>12}{'largest':>10}{'flips':>8}{'noise':>8}{'wrong':>8}")
    for check in checks:
        largest = "" if check.largest is None else f"{check.largest:.1e}"
        cells = f"{check.compared:>12,}{largest:>10}{check.flips or '':>8}"
        print(f"{check.name:<52}{cells}{check.within_noise or '':>8}{check.wrong or '':>8}")
        if check.where:
            print(f"    first or worst: {check.where}")
        if check.note:
            print(f"    {check.note}")
    for note in notes:
        print(note)
    print(f"{wrong:,} differences" if wrong else "no difference")


def _print_json(checks: list[Check], notes: list[str], wrong: int) -> None:
    import json
    import math
    from dataclasses import asdict

    rows = [asdict(check) for check in checks]
    for row in rows:  # a number on one side only has no relative difference
        if row["largest"] is not None and not math.isfinite(row["largest"]):
            row["largest"] = None
    print(json.dumps({"wrong": wrong, "checks": rows, "notes": notes}))
