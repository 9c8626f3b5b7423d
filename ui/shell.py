"""What every page shares: the chosen SAE, its store, the address bar, the sidebar.

In:  a workspace, the root of the stores, the pages of the app.
Out: a `Shell` that pages take as their one argument, and functions that read and write the
     address. The address is the only state of a page; the session merely remembers each page's
     last one, because the sidebar's links drop it.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from data import effects_store, neighbours_store
from data.access import Person
from data.effects_store import EffectsStore
from data.errors import StoreError, WorkspaceError
from data.features_store import FeatureStore
from data.jobs import Jobs
from data.lab import Lab
from data.marks_store import LabMarks
from data.neighbours_store import MapStore, NeighboursStore
from data.schema import Root
from data.workspace import Workspace
from ui import cards
from ui.keys import known

STYLES = Path(__file__).with_name("styles")
FIRST = "overview"
FAVICON = Path(__file__).with_name(
    "favicon.png"
)  # of our own: icons and emoji by name are fetched from afar

STRIP_JS = """
export default function (component) {
  const { data, parentElement, setTriggerValue } = component
  const box = document.createElement("div")
  box.className = "ts"
  for (const piece of data.pieces) {
    const span = document.createElement("span")
    span.textContent = piece.text
    span.className = piece.cls
    span.title = piece.title
    span.tabIndex = 0
    span.setAttribute("role", "button")
    span.onclick = () => setTriggerValue("clicked", piece.token)
    span.onkeydown = (event) => { if (event.key === "Enter") span.click() }
    box.appendChild(span)
  }
  parentElement.replaceChildren(box)
}
"""


PART = r"[^\s/'\":,()]+"
OURS = "activations|autointerp|jobs|llm_cache|saes|studies"  # folders of a workspace
IN_WORKSPACE = re.compile(rf"(?<![\w.:/])/(?:{PART}/)*?((?:{OURS})/{PART})")
ANYWHERE = re.compile(rf"(?<![\w.:/])/(?:{PART}/)*({PART})")


@dataclass(frozen=True)
class Shell:
    """What a page is given."""

    workspace: Workspace
    root: Root
    lab: Lab  # what people write: one for all sessions
    jobs: Jobs
    person: Person
    sae: str | None  # the chosen SAE, a finished one of the workspace; None: there is none
    pages: Mapping[str, Any]  # name -> st.Page
    live: Callable[[Path, str], Any]  # makes the client of the model worker: interp.live.LiveModel
    token_strip: Callable[..., Any]  # the clickable strip

    def named(self, sae: str) -> Shell:
        """The same for another SAE; WorkspaceError if there is none of that name."""
        self.workspace.sae(sae)
        return dataclasses.replace(self, sae=sae)

    @property
    def harvested(self) -> bool:
        return self.sae is not None and self._features.is_file()

    @property
    def _features(self) -> Path:
        if self.sae is None:
            raise WorkspaceError("no SAE is chosen: train or import one first")
        return self.workspace.sae(self.sae) / "features.duckdb"

    def store(self) -> FeatureStore:
        """The feature store of the chosen SAE; StoreError if it cannot be read."""
        results, _ = self.results()
        marks = LabMarks(self.root, self.lab, self.sae)
        return FeatureStore(self.root, self._features, results, marks)

    def results(self) -> tuple[Path | None, str]:
        """The newest run's labels and scores, and why they cannot be read if they cannot: features
        can be looked at without."""
        path = self.workspace.results(self.sae)
        try:
            if path is not None:
                with self.root.reading(path):
                    pass
        except StoreError as error:
            return None, str(error)
        return path, ""

    def effects(self) -> EffectsStore | None:
        """What ablation says of the harvest's features; None: not computed."""
        found = self.workspace.extra(self.sae, "effects")
        if not found:
            return None
        path = effects_store.newest_of(self.root, found, self.store().meta["content_hash"])
        return None if path is None else EffectsStore(self.root, path)

    def neighbours(self, other: str | None = None) -> NeighboursStore | None:
        """Neighbours of the SAE's features, in it or in another SAE; None: not computed."""
        return self._newest("neighbours", NeighboursStore, other)

    def map(self) -> MapStore | None:
        """The SAE's decoder directions in two dimensions; None: not computed."""
        return self._newest("map", MapStore)

    def _newest(self, kind: str, store: Callable, other: str | None = None) -> Any:
        """The newest file of that kind that was made from the weights of the harvest."""
        found = self.workspace.extra(self.sae, kind)
        if not found:
            return None
        weights = self.store().meta["weights_sha256"]
        path = neighbours_store.newest_of(self.root, found, weights, other)
        return None if path is None else store(self.root, path, weights)

    def go(self, page: str, params: Mapping[str, str], sae: str | None = None) -> None:
        """Opens another page at that address, of the same SAE or another; the script ends here."""
        about = sae or self.sae
        st.session_state[f"address:{page}:{about}"] = dict(params)
        chosen = {} if about is None else {"sae": about}
        st.switch_page(self.pages[page], query_params={**chosen, **params})

    def link(self, page: str, params: Mapping[str, str], sae: str | None = None) -> str:
        """The address of a page, for a link in HTML; it opens without a new session."""
        about = sae or self.sae
        chosen = {} if about is None else {"sae": about}
        place = "./" if page == FIRST else page  # Streamlit serves its first page at the root only
        return f"{place}?{urlencode({**chosen, **params})}"


@functools.cache
def styles() -> str:
    """The style sheets of ui/styles as one element."""
    sheets = (sheet.read_text("utf-8") for sheet in sorted(STYLES.glob("*.css")))
    return "<style>" + "\n".join(sheets) + "</style>"


def register_token_strip() -> Callable[..., Any]:
    """The clickable token strip. Tokens reach the browser as data and are set as text."""
    return st.components.v2.component("token_strip", js=STRIP_JS, isolate_styles=False)


def address(page: str, sae: str | None, keys: Iterable[str]) -> dict[str, str]:
    """The page's own part of the address; the one it was left with if navigation dropped it.

    Only on coming from another page: on the same page an empty address means what it says, such as
    after the browser's Back.
    """
    wanted = set(keys)
    unknown = sorted(st.query_params.keys() - known.KEYS)
    if unknown:
        names = ", ".join(key[:40] for key in unknown[:5])
        st.warning(plain(f"This app does not know {names} of the address, and left it out."))
    params = {key: value for key, value in st.query_params.items() if key in wanted}
    remembered = st.session_state.get(f"address:{page}:{sae}", {})
    entered = st.session_state.get("page") != page
    st.session_state["page"] = page
    if entered and not params and remembered:
        params = remembered
        set_address(page, sae, params)
    st.session_state[f"address:{page}:{sae}"] = params
    return params


def set_address(page: str, sae: str | None, params: Mapping[str, str]) -> None:
    """Writes the page's part of the address."""
    st.session_state[f"address:{page}:{sae}"] = dict(params)
    chosen = {} if sae is None else {"sae": sae}
    st.query_params.from_dict({**chosen, **params})


def choose_sae(workspace: Workspace) -> str:
    """The SAE of the address, else the session's last, else the first; kept in the address.

    Draws the chooser in the sidebar. Raises WorkspaceError for a name that is not there.
    """
    names = workspace.saes
    asked = st.query_params.get("sae") or st.session_state.get("last_sae")
    known = asked in names
    if asked is None or (not known and "sae" not in st.query_params):
        asked, known = names[0], True

    def switch() -> None:
        st.query_params.from_dict({"sae": st.session_state["sae_chooser"]})

    st.session_state["sae_chooser"] = asked if known else None
    st.sidebar.selectbox(
        "Sparse autoencoder",
        names,
        index=0 if known else None,
        key="sae_chooser",
        on_change=switch,
        placeholder="choose one",
    )
    workspace.sae(asked)
    st.session_state["last_sae"] = asked
    if st.query_params.get("sae") != asked:
        st.query_params["sae"] = asked
    return asked


def sidebar_facts(workspace: Workspace, sae: str) -> None:
    """What kind of SAE it is, in the sidebar."""
    config = workspace.config(sae)
    metrics = workspace.metrics(sae) or {}
    about = origin(config)
    l0, fve = metrics.get("l0"), metrics.get("fve")
    kind = config["architecture"]
    rows = [
        ("kind", cards.ARCHITECTURES.get(kind, kind)),
        ("model", short_name(about.get("model_name"))),
        ("site", about.get("site") or about.get("hook_name")),
        ("size", f"{config['d_in']:,} → {config['d_sae']:,}"),
        ("L0", None if l0 is None else f"{l0:.1f}"),
        ("FVE", None if fve is None else f"{fve:.3f}"),
    ]
    st.sidebar.html(cards.facts(rows))


def origin(config: Mapping) -> dict:
    """What an SAE was made from: cfg.json's metadata, with this program's own part on top."""
    about = config.get("metadata") or {}
    return {**about, **(about.get("workbench") or {})}


def short_name(path: str | None) -> str | None:
    """The last part of a path or hub name."""
    return path if path is None else path.rstrip("/").rsplit("/", 1)[-1]


def plain(text: str) -> str:
    """Text that Streamlit must not read as Markdown: names, addresses, messages."""
    return re.sub(r"([\\`*_\[\]<>$~:|#])", r"\\\1", text)


def show_error(error: Exception) -> None:
    """A mendable error, in place; its message holds the cure."""
    st.error(plain(without_paths(str(error))))


def without_paths(text: str) -> str:
    """A message without the folders of this machine: of a path its last part, and before it those
    from the workspace's own folders on."""
    return ANYWHERE.sub(r"\1", IN_WORKSPACE.sub(r"\1", text))


def not_yet(what: str, command: str) -> None:
    """Says that a part is absent, and the command that makes it."""
    st.info(f"{what}: `{command}`")
