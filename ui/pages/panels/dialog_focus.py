"""Puts the cursor into a dialog's first field, so that what is typed next lands there.

Streamlit opens dialogs without it, and letters then press the buttons whose shortcuts they are.
"""

from __future__ import annotations

import streamlit as st

JS = """
export default function () {
  const fields = "[role=dialog] input:not([type=hidden]), [role=dialog] textarea"
  const focus = () => {
    const inside = document.activeElement && document.activeElement.closest("[role=dialog]")
    const field = document.querySelector(fields)
    if (field && !(inside && document.activeElement.matches("input, textarea"))) field.focus()
  }
  const soon = [0, 120, 300].map((ms) => setTimeout(focus, ms))
  return () => soon.forEach(clearTimeout)
}
"""


def first_field(name: str) -> None:
    """Call it inside a dialog, after its fields. name: of the dialog."""
    focus = st.components.v2.component("dialog_focus", js=JS, isolate_styles=False)
    focus(key=f"focus.{name}")
