"""Names and the clients they stand for; keys that are missing, and that never show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import WorkbenchError
from interp.judges.named import available, client_named, models_of, split_address
from tests.interp.judges.fake_servers import KEY, Answer, FakeServer, error

REPOSITORY = Path(__file__).parents[3]
VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL",
             "GOOGLE_GEMINI_BASE_URL")  # fmt: skip


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def refused(name, **settings):
    with pytest.raises(WorkbenchError) as error:
        client_named(name, **settings)
    assert KEY not in str(error.value)
    return str(error.value)


def test_each_kind_by_its_name(tmp_path):
    script = tmp_path / "replies.jsonl"
    script.write_text(json.dumps({"text": "a"}), encoding="utf-8")
    for name, kind, model in (
        ("gemini:m-1", "GeminiClient", "m-1"),
        ("gemini-legacy:m-1", "GeminiLegacyClient", "m-1"),
        ("openai:a/b:free@http://h:8000/v1", "OpenAICompatibleClient", "a/b:free"),
        ("hf:demo", "LocalClient", "demo"),
        (f"scripted:{script}", "ScriptedClient", "scripted"),
    ):
        client = client_named(name, key=KEY)
        assert (type(client).__name__, client.name, client.model) == (kind, name, model)
        assert KEY not in repr(client) + repr(vars(client)) + client.endpoint


def test_addresses_within_names():
    assert split_address("m@http://h/v1") == ("m", "http://h/v1")
    assert split_address("@cf/meta/m@https://h/v1") == ("@cf/meta/m", "https://h/v1")
    assert split_address("m@2") == ("m@2", None)
    assert client_named("openai:m@http://h:1/v1/").endpoint == "http://h:1/v1"


def test_keys_come_from_the_environment(monkeypatch):
    with FakeServer(Answer({"models": [], "data": []})) as server:
        for kind, variable, header in (
            ("gemini", "GOOGLE_API_KEY", "x-goog-api-key"),
            ("gemini", "GEMINI_API_KEY", "x-goog-api-key"),
            ("gemini-legacy", "GEMINI_API_KEY", "x-goog-api-key"),
            ("openai", "OPENAI_API_KEY", "authorization"),
        ):
            monkeypatch.setenv(variable, f" {KEY}-{variable}\n")
            models_of(kind, base_url=server.address)
            sent = server.seen[-1].headers[header]
            assert sent.removeprefix("Bearer ") == f"{KEY}-{variable}"
        models_of("gemini", key=KEY, base_url=server.address)
        assert server.seen[-1].headers["x-goog-api-key"] == KEY, "the caller's goes first"


def test_a_missing_key_is_one_sentence_with_the_cure(monkeypatch):
    for kind in ("gemini", "gemini-legacy"):
        said = refused(f"{kind}:m")
        assert said.startswith(f"{kind} needs a key: set GEMINI_API_KEY or GOOGLE_API_KEY")
        assert "lexical" in said and "hf:PATH" in said
    monkeypatch.setenv("GEMINI_API_KEY", "  ")
    assert "needs a key" in refused("gemini:m")
    assert "set OPENAI_API_KEY" in refused("openai:m")
    assert client_named("openai:m@http://127.0.0.1:1/v1"), "a server of one's own may need none"


def test_keys_and_addresses_that_cannot_be():
    assert "characters that no key has" in refused("gemini:m", key=f"{KEY} {KEY}")
    assert "no name, password" in refused(f"openai:m@http://me:{KEY}@host/v1")
    assert "no name, password" in refused(f"openai:m@http://host/v1?key={KEY}")


def test_names_that_are_none():
    for name in ("", "claude:x", "lexical", "GEMINI:m"):
        said = refused(name)
        assert "no language-model judge" in said and "openai:MODEL@BASE_URL" in said
    assert refused("hf:").startswith("hf needs a model folder or hub id: hf:PATH")
    assert refused("scripted").startswith("scripted needs a file")
    assert "cannot be read" in refused("scripted:/nowhere/at/all")


def test_a_model_left_out_lists_those_there_are():
    models = [{"name": f"models/m{n:02}", "supportedGenerationMethods": ["generateContent"]}
              for n in range(25)]  # fmt: skip
    with FakeServer(Answer({"models": models})) as server:
        said = refused("gemini", key=KEY, base_url=server.address)
    assert said.startswith("gemini needs a model: gemini:MODEL, with one of m00, m01,")
    assert said.endswith("m19 and 5 more")
    with FakeServer(Answer({"data": [{"id": "llama"}]})) as server:
        said = refused(f"openai:@{server.address}/v1")
    assert said == f"openai needs a model: openai:MODEL@{server.address}/v1, with one of llama"
    with FakeServer(error(401)) as server:
        said = refused("gemini:", key=KEY, base_url=server.address)
    assert "cannot be listed" in said and "check the key" in said
    with FakeServer(error(404)) as server:
        assert refused(f"openai:@{server.address}").endswith(server.address)
    assert "needs a key" in refused("gemini")


def test_what_is_available_is_said_without_keys(monkeypatch):
    before = {offer.kind: offer for offer in available()}
    assert list(before) == ["gemini", "gemini-legacy", "openai", "hf", "scripted"]
    assert "set GEMINI_API_KEY or GOOGLE_API_KEY" in before["gemini"].missing
    assert before["hf"].missing == before["openai"].missing == ""
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert all(not offer.missing for offer in available()) and KEY not in repr(available())


def test_naming_and_listing_load_no_sdk():
    code = (
        "import sys\nfrom interp.judges.named import available, client_named\navailable()\n"
        "heavy = ('google.generativeai', 'google.genai', 'openai', 'torch', 'transformers', "
        "'httpx2', 'requests', 'grpc')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert process.stdout.strip() == "[]", process.stderr
