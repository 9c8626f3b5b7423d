"""The model worker's state, in place: stopped, loading, failed, or ready to be asked.

In:  a Shell and the SAEs that are wanted.
Out: the client to ask, or None with what the worker is doing on the page, and a button for it.

The page goes on without the model. While it loads, this part alone draws itself anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from interp.live import LiveModel
from ui.shell import Shell, plain, without_paths


def ready(shell: Shell, sae: str, key: str) -> LiveModel | None:
    """The client if that SAE can be asked now, else None. key: tells places on a page apart."""
    return ready_together(shell, (sae,), key)


def ready_together(
    shell: Shell, saes: Sequence[str], key: str, begin: bool = False
) -> LiveModel | None:
    """The same for several SAEs of one language model; the client is that of the first.

    begin: loading begins unasked, once for each worker; what ended stays ended.
    """
    clients = {sae: shell.live(shell.workspace.root, sae) for sae in saes}
    first = clients[saes[0]]
    states = {sae: client.state() for sae, client in clients.items()}
    if _all(states, "ready"):
        return first
    stopped = {sae: state for sae, state in states.items() if state["state"] == "stopped"}
    if stopped and _may_begin(stopped, begin):
        _begin(first, saes)
        states = {sae: client.state() for sae, client in clients.items()}
        if _all(states, "ready"):
            return first
    _show(first, clients, states, key)
    return None


def _all(states: dict[str, dict], name: str) -> bool:
    return all(state["state"] == name for state in states.values())


def _may_begin(stopped: dict[str, dict], begin: bool) -> bool:
    """Once for each SAE and worker; what the worker itself dropped may always come back."""
    asked = st.session_state.setdefault("worker.asked", set())
    wanted = {(sae, state.get("worker")) for sae, state in stopped.items()}
    again = all(state.get("again") for state in stopped.values())
    allowed = again or (begin and not wanted <= asked)
    if allowed:
        asked |= wanted
    return allowed


def _begin(first: LiveModel, saes: Sequence[str]) -> None:
    others = [sae for sae in saes if sae != first.sae]
    first.start(others) if others else first.start()


def _show(first: LiveModel, clients: dict, states: dict[str, dict], key: str) -> None:
    for sae, state in states.items():
        if state["state"] == "failed":
            _failed(first, list(clients), sae, state, key)
            return
    if any(state["state"] == "loading" for state in states.values()):
        _loading(first, clients, key)
    else:
        missing = next(state for state in states.values() if state["state"] == "stopped")
        _stopped(first, list(clients), missing, key)


def _failed(first: LiveModel, saes: list[str], sae: str, state: dict, key: str) -> None:
    said = f"The model did not load: {without_paths(state['detail'])}"
    st.error(plain(said), icon=":material/error:")
    st.button(
        "Try again", key=f"{key}.again", on_click=_begin, args=(first, saes),
        icon=":material/restart_alt:",
    )  # fmt: skip


def _stopped(first: LiveModel, saes: list[str], state: dict, key: str) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            plain(f"The model is not loaded: {state['detail']}."),
            help="The language model runs in a process of its own, one for everybody who looks at "
            "this workspace. It ends by itself when nobody has asked for anything for half an "
            "hour.",
        )
        st.button(
            "Load the model", key=f"{key}.start", on_click=_begin, args=(first, saes),
            icon=":material/play_arrow:", type="primary",
        )  # fmt: skip


@st.fragment(run_every="1s")
def _loading(first: LiveModel, clients: dict, key: str) -> None:
    """Draws itself every second; the rest of the page stands still until the model is there."""
    states = {sae: client.state() for sae, client in clients.items()}
    if not any(state["state"] == "loading" for state in states.values()):
        st.rerun()
    loading = [state for state in states.values() if state["state"] == "loading"]
    now = next((state for state in loading if "step" in state), loading[0])
    done = sum(state["state"] == "ready" for state in states.values())
    words = f"Loading the model: {now['detail']} · {now['seconds']:.0f} s"
    if len(clients) > 1:
        words += f" · {done} of {len(clients)} SAEs ready"
    with st.status(plain(words), state="running"):
        st.caption("The model loads in its own process. Leave this page and come back as you like.")

    def cancel() -> None:
        asked = st.session_state.setdefault("worker.asked", set())
        asked |= {(sae, worker) for sae in clients for worker in (None, now.get("worker"))}
        others = [sae for sae in clients if sae != first.sae]
        first.cancel(others) if others else first.cancel()

    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Cancel", key=f"{key}.cancel", on_click=cancel, icon=":material/close:")
        st.caption(
            "The model loads in a process of its own. Leave this page and come back as you like."
        )
