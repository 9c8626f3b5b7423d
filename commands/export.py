"""`export`: an SAE of the workspace as the files of another program.

In: its name and a format. Out: a folder that appears whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Export:
    """Write an SAE in another program's format."""

    name: str  # of the SAE
    format: str = "saelens"  # saelens, gemma_scope (params.npz), dictionary_learning (ae.pt), or
    # gated: SAELens's layout, as a Gated SAE with the same features
    out: Path | None = None  # the folder to write; it must not exist yet
    workspace: Path = Path("workspace")


def run(args: Export) -> int:
    from data.errors import WorkspaceError
    from data.workspace import Workspace, publish
    from sae import formats

    workspace = Workspace.open(args.workspace)
    if args.out is None:
        raise WorkspaceError("export needs a folder to write: give --out DIR")
    out = args.out.expanduser().resolve()
    if out.exists():
        raise WorkspaceError(f"{out} exists already: name a folder that does not, with --out")
    sae, config = formats.load(workspace.sae(args.name))
    try:
        with publish(out) as part:
            part.mkdir()
            formats.write(sae, part, args.format, config.get("metadata") or {})
    except OSError as error:
        raise WorkspaceError(f"{out} cannot be written ({error.strerror or error})") from None
    files = ", ".join(sorted(path.name for path in out.iterdir()))
    print(f"wrote {out}: {files}")
    return 0
