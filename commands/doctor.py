"""`doctor`: what is installed, what this machine has, what the workspace holds, what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, what the workspace holds and what is wrong. Exits with 1 if something
    does not work."""

    network: bool = False  # also ask whether the Hugging Face hub answers
    json: bool = False  # print one JSON object
    workspace: Path = Path("workspace")


def run(args: Doctor) -> int:
    import json

    from data.doctor import findings
    from data.errors import WorkspaceError
    from data.schema import open_root
    from data.workspace import Workspace

    if not args.workspace.expanduser().exists():  # looking makes nothing
        raise WorkspaceError(
            f"there is no workspace at {args.workspace}: name one with --workspace, or make one "
            "with: python run.py demo"
        )
    workspace, root = Workspace.open(args.workspace), open_root()
    try:
        told = {
            "installed": _installed(),
            "machine": _machine(workspace),
            "reachable": _reachable(args.network),
            "workspace": _contents(workspace),
        }
        found = findings(workspace, root)
    finally:
        root.close()
    if args.json:
        print(json.dumps({**told, "findings": [vars(finding) for finding in found]}))
    else:
        _tell(told, found)
    return 1 if any(finding.level == "problem" for finding in found) else 0


def _installed() -> dict[str, str]:
    from data.doctor import OPTIONAL, versions

    absent = {name: "not installed (optional)" for name in OPTIONAL}
    return {name: v or absent.get(name, "NOT INSTALLED") for name, v in versions().items()}


def _machine(workspace) -> dict[str, str]:
    import os
    import platform
    import shutil

    from data.doctor import accelerators, memory

    total, free = memory()
    disk = shutil.disk_usage(workspace.root)
    return {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free" if total else "unknown",
        "disk": f"{disk.free / 1e9:.0f} of {disk.total / 1e9:.0f} GB free",
        "graphics cards": "; ".join(accelerators()) or "none",
        "device auto means": _torch_device(),
    }


def _torch_device() -> str:
    """What torch itself sees: a card without a fitting build of torch is of no use."""
    try:
        import torch
    except ImportError as error:
        return f"nothing: torch cannot be loaded ({error})"
    if not torch.cuda.is_available():
        return "cpu"
    name, size = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    return f"cuda: {name}, {size / 1e9:.0f} GB"


def _reachable(network: bool) -> dict[str, str]:
    from data import hub
    from data.doctor import hub_is_off, services

    if hub_is_off():
        answer = "switched off (HF_HUB_OFFLINE)"
    elif not network:
        answer = "not asked: --network asks"
    else:
        status, reason = hub.status("api/models?limit=1")
        answer = f"answers ({status})" if status is not None else f"out of reach: {reason}"
    told = {"Hugging Face hub": answer}
    for service in services():
        key = "key set" if service.key_set else f"no key ({' or '.join(service.variables)})"
        package = "package installed" if service.installed else "package not installed"
        told[f"{service.name}, key"] = f"{key}, {package}"
    return told


def _contents(workspace) -> dict[str, str]:
    from data.contents import caches, exports, size_of
    from data.jobs import Jobs
    from data.summaries import summaries, unfinished

    told = {"folder": str(workspace.root)}
    for one in summaries(workspace):
        if one.fault is not None:
            told[one.name] = "cannot be read"
            continue
        state = [
            "evaluated" if one.evaluated else "not evaluated",
            "harvested" if one.harvested else "not harvested",
        ]
        size = _size(size_of(workspace.sae(one.name)))
        told[one.name] = f"{one.architecture}, {one.d_sae:,} features, {', '.join(state)}, {size}"
    for run in unfinished(workspace):
        told[f"{run.name} (unfinished)"] = f"{run.tokens:,} tokens of training"
    found = caches(workspace)
    unused = [cache for cache in found if not cache.used_by]
    size = _size(sum(cache.n_bytes for cache in found))
    told["activation caches"] = f"{len(found)}, {size}; {len(unused)} of no SAE here"
    jobs = Jobs(workspace.jobs).newest()
    running = sum(job.state == "running" for job in jobs)
    told["jobs"] = f"{len(jobs)}, {running} running"
    told["exports"] = f"{len(exports(workspace))}"
    return told


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _tell(told: dict[str, dict[str, str]], found: list) -> None:
    for title, facts in told.items():
        print(f"{title}")
        for name, value in facts.items():
            print(f"  {name:<24} {value}")
    print("findings" if found else "nothing is wrong")
    for finding in found:
        cure = f" {finding.cure}" if finding.cure else ""
        more = f"  [python run.py {finding.step} ...]" if finding.step else ""
        print(f"  {finding.level:<8} {finding.about}: {finding.text}{cure}{more}")
