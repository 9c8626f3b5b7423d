"""The folder of a study over several SAEs, and how its plan is kept from changing.

In:  a workspace, a study's name. Out: its frozen plan as text; what has run so far; paths.

    arms/<study>/plan.json    plan.sha256    written once, before anything is asked
                 ran.json     of each arm: when whole, what it spent, which plan and code
                 runs/<sae>/  results.duckdb  calls.jsonl  run.json
                 report.json  report.md  report.html

The runs lie here and not among the workspace's own, so that pages go on to show those: a study
asks about a few features only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from data.errors import WorkspaceError
from data.workspace import Workspace, publish

PLAN, SEAL, RAN = "plan.json", "plan.sha256", "ran.json"


@dataclass(frozen=True)
class StudyFolder:
    """arms/<name> of a workspace, which need not be there yet."""

    path: Path

    @classmethod
    def of(cls, workspace: Workspace, name: str) -> StudyFolder:
        checked = workspace.run(name).name  # names obey one rule
        return cls(workspace.root / "arms" / checked)

    def freeze(self, text: str) -> str:
        """Keeps the plan; returns its SHA-256. WorkspaceError if there is one already."""
        if self.path.exists():
            raise WorkspaceError(
                f"there is a study {self.path.name!r} already: choose another name"
            )
        sha = _sha256(text)
        with publish(self.path) as part:  # both files or none
            part.mkdir()
            (part / PLAN).write_text(text, encoding="utf-8")
            (part / SEAL).write_text(sha + "\n")
        return sha

    def plan(self) -> tuple[str, str]:
        """The plan's text and its SHA-256. WorkspaceError where there is none, or it was changed
        after it was frozen, or something ran by another one."""
        try:
            text = (self.path / PLAN).read_text(encoding="utf-8")
            sealed = (self.path / SEAL).read_text().strip()
        except OSError:
            raise WorkspaceError(
                f"no study {self.path.name!r}: plan it with: python run.py arms new"
            ) from None
        sha = _sha256(text)
        by = {sealed, *(arm["plan_sha256"] for arm in self.ran().values())}
        if by != {sha}:
            raise WorkspaceError(
                f"the plan of study {self.path.name!r} was changed after it was frozen: bring back "
                f"the one of SHA-256 {sealed[:16]}..., or plan a study of another name"
            )
        return text, sha

    def ran(self) -> dict[str, dict]:
        """What is known of each arm that ran: plan_sha256, unanswered, spent, code."""
        path = self.path / RAN
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise WorkspaceError(
                f"{path} is not JSON ({error}): remove it, and run again"
            ) from None

    def note(self, sae: str, about: dict) -> None:
        """Keeps what is known of one arm; the others stay."""
        ran = self.ran() | {sae: about}
        with publish(self.path / RAN) as part:
            part.write_text(json.dumps(ran, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def run(self, sae: str) -> Path:
        """Where the run of one arm is, or would be."""
        return self.path / "runs" / sae

    def write(self, name: str, text: str) -> Path:
        """One of the reports, whole."""
        with publish(self.path / name) as part:
            part.write_text(text, encoding="utf-8")
        return self.path / name


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
