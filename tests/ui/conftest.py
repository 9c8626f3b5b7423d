"""One small workspace for all tests of the pages, and the app started on it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from tests.ui.small_store import write_workspace

APP = Path(__file__).resolve().parents[2] / "app.py"


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A complete workspace, to be read only."""
    return write_workspace(tmp_path_factory.mktemp("built") / "workspace")


@pytest.fixture
def workspace(built, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(built, tmp_path / "workspace"))


@pytest.fixture
def open_page(monkeypatch):
    """open_page(workspace, page, **params) -> AppTest after its first run."""

    def start(workspace: Path, page: str = "overview", /, **params: str) -> AppTest:
        st.cache_resource.clear()
        monkeypatch.setattr(sys, "argv", ["app.py", "--workspace", str(workspace)])
        test = AppTest.from_file(str(APP), default_timeout=30)
        for key, value in params.items():
            test.query_params[key] = value
        # AppTest.switch_page knows pages that are files only; ours are functions, known by address.
        test._page_hash = calc_hash("" if page == "overview" else page)
        test.run()
        test._page_hash = ""
        return test

    return start
