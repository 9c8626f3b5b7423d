"""Who sits in front of the page: nobody is asked on one's own machine, else a name and a passcode,
or a sign-in service.

In:  the workspace's people. Out: a `Person`, or None and a form that asks for one.
"""

from __future__ import annotations

import getpass

import streamlit as st
from streamlit.errors import StreamlitAuthError, StreamlitSecretNotFoundError

from data.access import TOKEN_S, Access, Person
from data.errors import AccessRefused
from ui.shell import plain

COOKIE = "workbench_session"
OWN = {"localhost", "127.0.0.1", "::1"}


def person(access: Access) -> Person | None:
    """Who is here. Asked at every run, so that who is let in no longer is out at once."""
    if access.open:
        return Person(getpass.getuser())
    if _service() and st.user.is_logged_in:
        return _of_service(access)
    token = st.session_state.get("token")
    known = access.holder(token) or access.holder(st.context.cookies.get(COOKIE))
    if known is not None and st.session_state.pop("fresh_token", False):
        _keep(token, TOKEN_S)
    return known


def sidebar(access: Access, known: Person) -> None:
    """Who is signed in and the way out; a warning where everybody may come in."""
    if not access.open:
        role = "" if known.researcher else " as a rater"
        st.sidebar.caption(plain(f"Signed in as {known.name}{role}"))
        st.sidebar.button(
            "Sign out", on_click=_leave, args=(access,), type="tertiary", key="sign_out"
        )
    elif st.get_option("server.address") not in OWN:
        st.sidebar.warning(
            "Everybody who can reach this address may use all of it. To ask for passcodes: "
            "`python run.py access add NAME`"
        )


def form(access: Access) -> None:
    """Asks for a name and a passcode, or sends to the sign-in service."""
    _keep("", 0)
    _, middle, _ = st.columns([1, 1.1, 1])
    with middle:
        st.title("Sign in")
        with st.form("sign_in", border=False):
            name = st.text_input("Name", autocomplete="username")
            passcode = st.text_input("Passcode", type="password", autocomplete="current-password")
            asked = st.form_submit_button("Sign in", type="primary", width="stretch")
        if asked:
            try:
                entered = access.enter(name, passcode)
            except AccessRefused as error:
                st.error(plain(f"{error}."))
            else:
                st.session_state["token"] = access.token(entered)
                st.session_state["fresh_token"] = True
                st.rerun()
        if _service():
            st.button("Sign in with your organisation", on_click=_ask_service, width="stretch")
        st.caption("A researcher of this workspace gives out passcodes.")


def _leave(access: Access) -> None:
    access.end(st.session_state.pop("token", None))
    access.end(st.context.cookies.get(COOKIE))
    _keep("", 0)
    if _service() and st.user.is_logged_in:
        st.logout()


def _keep(token: str, seconds: float) -> None:
    """Leaves the token, hex and dots, with the browser, so that a reload does not ask again."""
    st.html(
        f'<script>document.cookie = "{COOKIE}={token}; path=/; max-age={int(seconds)}; '
        'SameSite=Strict"</script>',
        unsafe_allow_javascript=True,
    )


def _service() -> bool:
    """Whether a sign-in service is configured: [auth] in .streamlit/secrets.toml."""
    try:
        return "auth" in st.secrets
    except StreamlitSecretNotFoundError:
        return False


def _ask_service() -> None:
    try:
        st.login()
    except StreamlitAuthError as error:
        st.error(plain(str(error)))


def _of_service(access: Access) -> Person | None:
    try:
        return access.vouched(str(st.user.get("email") or st.user.get("sub") or ""))
    except AccessRefused as error:
        st.error(plain(f"{error}."))
        st.button("Sign out", on_click=_leave, args=(access,))
        return None
