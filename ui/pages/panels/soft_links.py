"""Links inside HTML that open without a new session, and a history in which one Back is one page.

In:  anchors with the attribute data-go whose addresses are of this app's pages (Shell.link).
Out: a click takes the session to that page. Without this, or with the middle button, or in a new
     tab, they are links like any other, which load the app afresh.

Streamlit goes to another page in two steps of the browser's history: first the old page with the
new page's address, then the new page; or the new page without its address, then with it. Back
would lead to these halves, which were never seen. The second step takes the first one's place.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

import streamlit as st

from ui.shell import FIRST, Shell

JS = """
function keepWholePages() {
  const history = window.history
  if (history.pushState.wholePages) return
  const push = history.pushState.bind(history)
  let halfway = 0
  history.pushState = (state, title, url) => {
    const next = new URL(url, location.href)
    const samePath = next.pathname === location.pathname
    const half = samePath
      ? !location.search
      : next.search === location.search && Date.now() - halfway < 3000
    halfway = samePath ? Date.now() : 0
    if (half) history.replaceState(state, title, url)
    else push(state, title, url)
  }
  history.pushState.wholePages = true
}

export default function (component) {
  const { setTriggerValue } = component
  keepWholePages()
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
