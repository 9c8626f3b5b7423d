"""Ablation effects on the Prompt page: measured when asked for, with progress and a way out.

In:  a Reading, the features listed. Out: effects, kept in the session while the text stays.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from data.errors import WorkbenchError, WorkerError
from data.records import FeatureEffect
from ui.pages.panels import worker
from ui.pages.panels.prompt_reading import Reading, Row
from ui.shell import plain, show_error

AT_ONCE = 24  # features measured at one press of the button
KEPT = "prompt.effects"  # of the session: (text's key, {SAE: {feature: effect}})


def kept(key: tuple, sae: str) -> Mapping[int, FeatureEffect]:
    """What was measured of that SAE. key: tells the text, and the SAEs as they were."""
    about, found = st.session_state.get(KEPT, (None, {}))
    return found.get(sae, {}) if about == key else {}


def offer(reading: Reading, rows: list[Row]) -> None:
    """The button that measures those not measured yet, the strongest first."""
    missing = [f for f, _ in rows if f not in reading.effects][:AT_ONCE]
    if not missing:
        return
    words = "Measure" if not reading.effects else "Measure more:"
    n = len(missing)
    st.button(
        f"{words} the effects of {n} feature{'s' * (n > 1)}", key=f"prompt.measure.{reading.sae}",
        icon=":material/science:", on_click=st.session_state.__setitem__,
        args=("prompt.measuring", (reading.sae, tuple(missing))),
        help="Takes each feature away on its own and compares what the model then predicts over "
        "the whole text. The strongest are measured first.",
    )  # fmt: skip


def measure(readings: list[Reading], text: str, key: tuple, place) -> None:
    """What the button asked for; place: the container for progress. The page is drawn already."""
    sae, features = st.session_state.pop("prompt.measuring", (None, ()))
    reading = next((one for one in readings if one.sae == sae), None)
    if reading is None:
        return
    with place:
        live = worker.ready(reading.shell, sae, "prompt.measuring")
        if live is None:
            return
        bar = st.progress(0.0, plain(f"Measuring {len(features)} features of {sae}"))
        st.button("Cancel", key="prompt.measuring.cancel", icon=":material/close:")

        def tell(progress: dict) -> None:  # a press of the button ends the script here
            if "done" in progress:
                share = progress["done"] / max(progress["total"], 1)
                bar.progress(share, f"{progress['done']} of {progress['total']} features measured")
            else:
                bar.progress(0.0, f"Waiting for {progress.get('before', 0)} requests before")

        try:
            found = live.effects(text, features, tell=tell)
        except WorkerError as error:
            show_error(error)
            return
        except WorkbenchError as error:  # such as a transcoder, which has no such effects
            show_error(error)
            return
    about, before = st.session_state.get(KEPT, (None, {}))
    before = before if about == key else {}
    st.session_state[KEPT] = (key, {**before, sae: {**before.get(sae, {}), **found}})
    st.rerun()
