"""The plan of a study over several SAEs: whose features are asked about, and how.

In:  of each SAE its group and how often its features fire; a seed. Out: a `Study`, which is JSON,
     and back; its SHA-256. Drawn before anything is asked, and never after.

Arms whose features are the same by number (a control with matched thresholds and what it is like;
an SAE fitted on another) take the same numbers, so that they can be compared feature by feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from data.errors import WorkbenchError
from interp.autointerp import Plan
from interp.items import Mix, Shown

VERSION = 1
FEWEST = 3  # features of an arm: fewer have no interval


@dataclass(frozen=True)
class Candidates:
    """An SAE that is to be an arm."""

    sae: str
    group: str  # what its figure is drawn by: an architecture, say
    fires: np.ndarray  # int [d_sae]
    store_content: str  # hash of its feature store
    weights_sha256: str
    like: str | None = None  # the SAE whose features are the same ones by number


@dataclass(frozen=True)
class Arm:
    sae: str
    group: str
    features: tuple[int, ...]
    eligible: int  # features that could have been drawn
    store_content: str
    weights_sha256: str
    matched_to: str | None  # the arm that has the same feature numbers


@dataclass(frozen=True)
class Study:
    """Everything that decides what is asked. plan: as of interp.autointerp, as JSON has it."""

    name: str
    arms: tuple[Arm, ...]
    judge: str
    plan: dict
    asking: dict  # how a language-model service is asked: temperature, thinking, ...
    seed: int
    wanted: int  # features an arm
    least_fires: int
    strata: int
    version: int = VERSION


def as_text(study: Study) -> str:
    """The study as JSON, the same bytes every time."""
    return json.dumps(asdict(study), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def of_text(text: str) -> Study:
    """Back again. WorkbenchError for what is no study, or one of a later program."""
    try:
        said = json.loads(text)
        if said.get("version") != VERSION:
            raise WorkbenchError(
                f"this study is of version {said.get('version')!r}; this program reads {VERSION}"
            )
        arms = tuple(Arm(**{**arm, "features": tuple(arm["features"])}) for arm in said["arms"])
        return Study(**{**said, "arms": arms})
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
        raise WorkbenchError(f"this is no plan of a study ({error}): make it anew") from None


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def plan_of(study: Study) -> Plan:
    """The plan of each arm's run."""
    said = dict(study.plan)
    for name in ("methods", "arms"):
        said[name] = tuple(said[name])
    return Plan(**{**said, "shown": Shown(**said["shown"]), "mix": Mix(**said["mix"])})


# ---------------------------------------------------------------- drawing


def arms_of(
    candidates: Sequence[Candidates], wanted: int, least_fires: int, strata: int, seed: int
) -> tuple[Arm, ...]:
    """Draws `wanted` features of each SAE from those that fire `least_fires` times or more.

    strata: so many groups of equally many features, from the rarest on, give equally many each: a
    mean over the drawn ones still is one over the eligible ones. Matched SAEs get the same numbers,
    drawn from those eligible in all of them, in strata of the first. WorkbenchError where there
    are too few.
    """
    if wanted < FEWEST or not 1 <= strata <= wanted:
        raise WorkbenchError(
            f"{wanted} features an arm in {strata} strata: give {FEWEST} or more, and no more "
            "strata than features"
        )
    names = [one.sae for one in candidates]
    twice = {name for name in names if names.count(name) > 1}
    if twice or len(names) < 2:
        what = f"{min(twice)} twice" if twice else "one SAE"
        raise WorkbenchError(f"a study of {what}: name two or more, each once")
    by_name = {one.sae: one for one in candidates}
    found: dict[str, Arm] = {}
    for leader in candidates:
        if _leader(leader, by_name) is not leader:
            continue
        family = [one for one in candidates if _leader(one, by_name) is leader]
        good = np.logical_and.reduce([one.fires >= least_fires for one in family])
        eligible = np.flatnonzero(good)
        if len(eligible) < wanted:
            raise WorkbenchError(
                f"{' and '.join(one.sae for one in family)}: {len(eligible)} features fire "
                f"{least_fires} times or more, {wanted} are wanted; ask for fewer"
            )
        features = drawn(eligible, leader.fires, wanted, strata, seed, leader.sae)
        for one in family:
            found[one.sae] = Arm(
                one.sae, one.group, features, len(eligible), one.store_content,
                one.weights_sha256, None if one is leader else leader.sae,
            )  # fmt: skip
    return tuple(found[name] for name in names)


def drawn(
    eligible: np.ndarray, fires: np.ndarray, wanted: int, strata: int, seed: int, name: str
) -> tuple[int, ...]:
    """Numbers of features, rising. The name is part of the seed: arms are drawn independently."""
    own = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    generator = np.random.default_rng([seed, own])
    by_rate = eligible[np.argsort(fires[eligible], kind="stable")]
    groups = np.array_split(by_rate, strata)
    shares = [len(part) for part in np.array_split(np.arange(wanted), strata)]
    chosen = [
        generator.choice(group, share, replace=False)
        for group, share in zip(groups, shares, strict=True)
    ]
    return tuple(sorted(int(f) for f in np.concatenate(chosen)))


def _leader(one: Candidates, by_name: Mapping[str, Candidates]) -> Candidates:
    """The arm whose draw this one takes: the end of the chain of `like` within the study; itself
    where that goes in a ring."""
    at, seen = one, {one.sae}
    while at.like in by_name and len(by_name[at.like].fires) == len(at.fires):
        at = by_name[at.like]
        if at.sae in seen:
            return one
        seen.add(at.sae)
    return at
