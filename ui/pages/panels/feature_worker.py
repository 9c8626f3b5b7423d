"""The model worker, as the live panels see it: its state, and requests that block nobody.

In:  a LiveModel; something to ask it. Out: whether it can be asked, with what to do if not; the
     answer once it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import streamlit as st

from data.errors import WorkbenchError
from ui.shell import plain, without_paths

Tell = Callable[[dict], None]  # how far it has come, as in interp/live.py
AT_ONCE_S = 0.4  # answers that come this soon need no progress shown


def ready(live: Any, name: str) -> bool:
    """Whether the model can be asked; if not, draws why and the button that starts it.

    name: of the panel, for the keys of its widgets.
    """
    state = live.state()
    if state["state"] == "ready":
        return True
    if state["state"] == "loading":
        _loading(live, name)
    elif state["state"] == "failed":
        st.error(plain(f"The model did not load: {without_paths(state['detail'])}"))
        st.button("Try again", key=f"feature.{name}.again", on_click=live.start)
    else:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Start the model", key=f"feature.{name}.start", on_click=live.start,
                      icon=":material/play_arrow:")  # fmt: skip
            st.caption(
                "It loads in a process of its own, which takes seconds to a minute. You can go on "
                "reading meanwhile."
            )
    return False


@st.fragment(run_every="1s")
def _loading(live: Any, name: str) -> None:
    """Redraws itself every second; the rest of the page can be used meanwhile."""
    state = live.state()
    if state["state"] != "loading":
        st.rerun()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.status(plain(f"Loading the model: {state['detail']} ({state['seconds']:.0f} s)"),
                  state="running")  # fmt: skip
        st.button("Cancel", key=f"feature.{name}.cancel", on_click=live.cancel)


class Stopped(Exception):
    """Nobody waits for the answer any more."""


class Call:
    """One request, made in a thread of its own so that the page stays usable meanwhile."""

    def __init__(self, key: Hashable, work: Callable[[Tell], Any]) -> None:
        self.key, self.began = key, time.monotonic()
        self.result: Any = None
        self.error: Exception | None = None
        self.progress: dict = {}
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Tell], Any]) -> None:
        try:
            self.result = work(self._tell)
        except Stopped:
            pass
        except Exception as error:  # told on the page, in the thread of who asked
            self.error = error

    def _tell(self, progress: dict) -> None:
        if self._stopped:
            raise Stopped  # which ends the work, in the worker too
        self.progress = progress

    def stop(self) -> None:
        self._stopped = True

    def done(self, seconds: float = 0.0) -> bool:
        """Whether the answer is there, after waiting for it so long at most."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def ask(name: str, key: Hashable, work: Callable[[Tell], Any]) -> Any:
    """The answer of `work`, begun once for each `key`; None while it is not there, or failed.

    Draws the progress that `work` tells, with a button that stops it, and a failure by its sentence
    with one that tries again. name: of the panel.
    """
    call = st.session_state.get(_slot(name))
    if call is not None and call.key != key:
        forget(name)
        call = None
    if call is None:
        call = st.session_state[_slot(name)] = Call(key, work)
    if not call.done(AT_ONCE_S):
        _waiting(name)
        return None
    if call.error is None:
        return call.result
    if not isinstance(call.error, WorkbenchError):
        raise call.error
    st.error(plain(str(call.error)))
    st.button("Try again", key=f"feature.{name}.retry", on_click=forget, args=(name,))
    return None


def forget(name: str) -> None:
    """Stops a panel's request, if there is one, and forgets its answer."""
    call = st.session_state.pop(_slot(name), None)
    if call is not None:
        call.stop()


def _slot(name: str) -> str:
    return f"feature.call.{name}"


@st.fragment(run_every="1s")
def _waiting(name: str) -> None:
    call = st.session_state.get(_slot(name))
    if call is None or call.done():
        st.rerun()
    told = call.progress
    what = told.get("what", "the model works on it")
    words = f"{what[:1].upper()}{what[1:]} ({call.seconds:.0f} s)"
    if told.get("before"):
        words = f"Waiting for {told['before']} other requests ({call.seconds:.0f} s)"
    with st.container(horizontal=True, vertical_alignment="center"):
        if told.get("total"):
            st.progress(min(told["done"] / told["total"], 1.0), text=plain(words))
        else:
            st.status(plain(words), state="running")
        st.button("Stop", key=f"feature.{name}.stop", on_click=_stop, args=(name,))


def _stop(name: str) -> None:
    forget(name)
    st.session_state[f"feature.stopped.{name}"] = True


def stopped(name: str) -> bool:
    """Whether the panel's request was just stopped; once."""
    return st.session_state.pop(f"feature.stopped.{name}", False)
