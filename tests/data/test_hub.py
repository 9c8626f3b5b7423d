"""Asking the hub: a small server stands for it, a folder in the hub's layout for its cache."""

from __future__ import annotations

import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from data import hub
from data import lm as language_models
from data.errors import ModelError
from tests import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server(monkeypatch):
    """A hub that answers with `server.code` and remembers what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            token = self.headers.get("Authorization")
            self.server.asked.append((self.path, token))
            denied = self.server.gated and token is None
            self.send_response(401 if denied else self.server.code)
            if self.server.code == 307:
                self.send_header("Location", f"http://localhost:{self.server.server_port}/else")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.code, server.gated = [], 200, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("code", [200, 307, 401, 403, 404, 500])
def test_the_hubs_answer_is_told_and_redirects_are_not_followed(server, code):
    server.code = code
    assert hub.status("a/b") == (code, "")
    assert [path for path, _ in server.asked] == ["/a/b"]


def test_the_users_token_is_shown_to_the_hub(server, monkeypatch):
    server.gated = True
    assert hub.status("a/b")[0] == 401
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    assert hub.status("a/b")[0] == 200
    assert server.asked[-1] == ("/a/b", "Bearer hf_made_up")


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_model_the_hub_denies_is_refused_with_what_to_check(server, code):
    server.code = code
    with pytest.raises(ModelError, match=f"answers {code} for 'nobody/model': check the name"):
        language_models.load("nobody/model")
    assert server.asked[0][0] == "/nobody/model/resolve/main/config.json"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A model in the hub's cache, and no way to the hub."""
    folder = tmp_path / "cache" / "models--owner--tiny"
    tiny.save(folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def test_a_cached_model_loads_without_the_hub_under_its_commit(cached):
    lm = language_models.load("owner/tiny", "cpu")
    assert lm.name == "owner/tiny" and lm.fingerprint == COMMIT
    again = language_models.load_again("owner/tiny", COMMIT, "float32", "cpu")
    assert again.fingerprint == COMMIT
    with pytest.raises(ModelError, match="neither a folder nor in the local cache"):
        language_models.load_again("owner/tiny", "f" * 40, "float32", "cpu")


def test_a_model_that_is_only_partly_cached_is_refused(cached):
    (cached / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="'owner/tiny' cannot be loaded"):
        language_models.load("owner/tiny", "cpu")
    shutil.rmtree(cached)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        language_models.load("owner/tiny", "cpu")
