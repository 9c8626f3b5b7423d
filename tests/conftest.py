"""What every test shares: no network, few threads, an empty workspace."""

from __future__ import annotations

import os
import sys

import pytest

from data.workspace import Workspace

THREADS = 2


def pytest_configure() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # before any test imports the hub's client


def pytest_collection_finish() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(THREADS)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """An empty workspace."""
    return Workspace.open(tmp_path / "workspace")


def pytest_sessionfinish() -> None:
    """Lets go of what the app's tests left cached: DuckDB grumbles about handles alive at exit."""
    streamlit = sys.modules.get("streamlit")
    if streamlit is not None:
        streamlit.cache_resource.clear()
