"""One visitor of the app without a browser: speaks to a running server over its websocket.

In:  the server's address, a page and its query. Out: what the page's elements say, the bytes that
     came over the wire, and how long the server took.

Does what Streamlit's own front end does and no more: asks for a run of the script, applies the
deltas it is sent, answers with the states of widgets.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from socket import socket
from urllib.parse import urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def served(script: Path, log: Path, *arguments: str, options: Sequence[str] = ()) -> Iterator[str]:
    """Runs `streamlit run script -- arguments` on a free port; yields its http address."""
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "streamlit", "run", str(script), "--server.headless", "true",
        "--server.address", "127.0.0.1", "--server.port", str(port), *options, "--", *arguments,
    ]  # fmt: skip
    with log.open("wb") as out:
        server = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).read()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError(f"the app ended: {log.read_text()}") from None
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=10)


def memory_mb(address: str) -> float:
    """Resident memory of the server that listens there."""
    port = int(address.rsplit(":", 1)[1])
    wanted = f"--server.port\0{port}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "cmdline").read_bytes():
                pages = int((process / "statm").read_text().split()[1])
                return pages * resource.getpagesize() / 1e6
        except OSError:  # it ended meanwhile
            continue
    raise LookupError(f"no server at {address}")


class Visitor:
    """A session. `elements` are those of the last run; `script_s`: from the run's first message to
    the last change of its page. Then Streamlit collects garbage, and says that it has finished."""

    def __init__(self, address: str, timeout_s: float = 60.0) -> None:
        where = address.replace("http://", "ws://") + "/_stcore/stream"
        self._open = ExitStack()
        opening = connect(where, subprotocols=["streamlit"], max_size=None)
        self._socket = self._open.enter_context(opening)
        self._timeout_s = timeout_s
        self._messages: dict[str, ForwardMsg] = {}  # the server sends a repeated one by its hash
        self._page = ""
        self.pages: dict[str, str] = {}  # url path -> hash of the script
        self.elements: dict[tuple[int, ...], Element] = {}
        self.received = b""  # all of the last run, as it came
        self.script_s = 0.0

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def open(self, page: str, query: Mapping[str, str] | None = None) -> float:
        """Goes to a page as one who enters its address; seconds until its script has finished."""
        ask = BackMsg()
        ask.rerun_script.query_string = urlencode(query or {})
        ask.rerun_script.page_name = page
        return self._run(ask)

    def stay(self, query: Mapping[str, str], **pressed: bool | str) -> float:
        """Runs the page again; pressed: labels of widgets -> what they were set to."""
        ask = BackMsg()
        ask.rerun_script.query_string = urlencode(query)
        ask.rerun_script.page_script_hash = self._page
        for label, value in pressed.items():
            state = ask.rerun_script.widget_states.widgets.add()
            state.id = self._widget(label)
            if isinstance(value, bool):
                state.trigger_value = value
            else:
                state.string_value = value
        return self._run(ask)

    def texts(self, kind: str) -> list[str]:
        """Texts of the elements of a kind: heading, markdown, html, alert, button, ..."""
        found = [e for e in self.elements.values() if e.WhichOneof("type") == kind]
        return [_text(getattr(one, kind)) for one in found]

    def _widget(self, label: str) -> str:
        for element in self.elements.values():
            inner = getattr(element, element.WhichOneof("type") or "empty")
            if getattr(inner, "label", None) == label:
                return inner.id
        raise LookupError(f"no widget {label!r} on the page")

    def _run(self, ask: BackMsg) -> float:
        began = started = time.perf_counter()
        self._socket.send(ask.SerializeToString())
        self.elements, self.received = {}, b""
        while True:
            raw = self._socket.recv(timeout=self._timeout_s)
            self.received += raw
            message = ForwardMsg.FromString(raw)
            if message.WhichOneof("type") == "ref_hash":
                at = message.metadata
                message = ForwardMsg.FromString(
                    self._messages[message.ref_hash].SerializeToString()
                )
                message.metadata.CopyFrom(at)
            elif message.hash:
                self._messages[message.hash] = message
            kind = message.WhichOneof("type")
            if kind == "delta":
                self.script_s = time.perf_counter() - started
            if kind == "new_session":
                self._page = message.new_session.page_script_hash
                started = time.perf_counter()
            elif kind == "navigation":
                self._page = message.navigation.page_script_hash
                pages = message.navigation.app_pages
                self.pages = {page.url_pathname: page.page_script_hash for page in pages}
            elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                path = tuple(message.metadata.delta_path)
                self.elements[path] = message.delta.new_element
            elif kind == "script_finished":
                if message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                    return time.perf_counter() - began


def _text(inner: object) -> str:
    return next(
        (getattr(inner, name) for name in ("body", "label") if getattr(inner, name, "")), ""
    )
