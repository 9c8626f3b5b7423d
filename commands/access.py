"""`access add`, `access remove`, `access list`: who may use the app on this workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Add:
    """Let somebody in. The first one added closes the app to everybody else."""

    name: str  # as it stands beside what they write; an e-mail address with --service
    role: str = "researcher"  # researcher, or rater: sees the Rate page only
    service: bool = False  # they sign in through the service configured in .streamlit/secrets.toml
    workspace: Path = Path("workspace")


@dataclass(frozen=True)
class Remove:
    """Let somebody in no longer; what they wrote stays. With the last one the app is open again."""

    name: str
    workspace: Path = Path("workspace")


@dataclass(frozen=True)
class List:
    """Say who may use the app."""

    workspace: Path = Path("workspace")


def run(args: Add | Remove | List) -> int:
    from data.access import Access
    from data.workspace import Workspace

    access = Access(Workspace.open(args.workspace).root)
    if isinstance(args, Add):
        passcode = access.add(args.name, args.role, service=args.service)
        print(f"{args.name} may come in as {args.role}.")
        if passcode is not None:
            print(f"passcode, shown this once: {passcode}")
    elif isinstance(args, Remove):
        access.remove(args.name)
        print(f"{args.name} may come in no longer.")
    if access.open:
        print("Nobody is named: everybody who reaches the app may use all of it.")
    elif isinstance(args, List):
        for person in access.people():
            print(f"{person.role:<12}{person.name}")
    return 0
