"""Where the Auto-interp page leads: its own views and the addresses of them. Out: links, moves."""

from __future__ import annotations

from ui.keys import autointerp as keys
from ui.keys.autointerp import RunView
from ui.shell import Shell, set_address

PAGE = "autointerp"


def go(shell: Shell, view: RunView) -> None:
    """Writes the view into the address."""
    set_address(PAGE, shell.sae, keys.write_view(view))


def link(shell: Shell, view: RunView) -> str:
    """The address of a view, for a link in HTML."""
    return shell.link(PAGE, keys.write_view(view))


def open_page(shell: Shell, view: RunView) -> None:
    """Opens the page there from another one."""
    shell.go(PAGE, keys.write_view(view))
