"""`app`: open the browser on a workspace."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from data.errors import WorkbenchError

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class App:
    """Serve the app on this machine until Ctrl-C."""

    workspace: Path = Path("workspace")
    port: int = 8501
    host: str = "localhost"  # 0.0.0.0 to let others on the network in


def run(args: App) -> int:
    refuse_port(args.port)
    port = free_port(args.port)
    print(f"\n  the app: http://{args.host}:{port}   (Ctrl-C ends it)\n", flush=True)
    command = [
        sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py"),
        "--server.port", str(port), "--server.address", args.host,
        "--server.headless", "true",
        "--", "--workspace", str(args.workspace.resolve()),
    ]  # fmt: skip
    try:
        return subprocess.call(command, cwd=ROOT)
    except KeyboardInterrupt:
        return 0


def refuse_port(port: int) -> None:
    """Raises WorkbenchError for a number that is no port."""
    if not 1 <= port <= 65_535:
        raise WorkbenchError(f"--port {port}: give a number from 1 to 65535")


def free_port(wanted: int) -> int:
    """`wanted`, or the next port nobody listens on."""
    for port in range(wanted, min(wanted + 100, 65_536)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    return wanted
