"""Links inside HTML that open without a new session.

In:  anchors with the attribute data-go whose addresses are of this app's pages (Shell.link).
Out: a click takes the session to that page. Without this, or with the middle button, or in a new
     tab, they are links like any other, which load the app afresh.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import streamlit as st

from ui.shell import FIRST, Shell

JS = """
export default function (component) {
  const { setTriggerValue } = component
  const follow = (event) => {
    const link = event.target.closest ? event.target.closest("a[data-go]") : null
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return
    event.preventDefault()
    setTriggerValue("go", link.getAttribute("href"))
  }
  document.addEventListener("click", follow)
  return () => document.removeEventListener("click", follow)
}
"""


def follow(shell: Shell) -> None:
    """Listens for clicks on every page. The script ends here when one is followed."""
    listen = st.components.v2.component("soft_links", js=JS, isolate_styles=False)
    with st.sidebar:  # it shows nothing, and would leave a gap at the top of the page
        clicked = listen(key="soft_links", on_go_change=lambda: None).go
    target = parse(shell, clicked) if clicked else None
    if target is not None:
        page, params, sae = target
        shell.go(page, params, sae)


def parse(shell: Shell, address: str) -> tuple[str, dict[str, str], str | None] | None:
    """(page, its parameters, SAE) of an address; None if it is no page of this app."""
    parts = urlsplit(address)
    page = parts.path.rsplit("/", 1)[-1] or FIRST
    if parts.scheme or parts.netloc or page not in shell.pages:
        return None
    params = dict(parse_qsl(parts.query))
    return page, params, params.pop("sae", None)
