"""The client over the older Gemini SDK against a server on this machine, and its imports."""

import asyncio
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import WorkbenchError
from interp.judges.client import CallFailed, Message, Request, Usage
from interp.judges.gemini_legacy import GeminiLegacyClient, schema_record
from tests.interp.judges.fake_servers import (
    FAULTS,
    KEY,
    SCHEMA,
    Answer,
    FakeServer,
    error,
    gemini,
    traces,
)

ASKED = Request("fake-model", (Message("user", "hello?"),))
SHAPED = Request("fake-model", (Message("user", "hello?"),), SCHEMA)
REPOSITORY = Path(__file__).parents[3]


def complete(server, request=ASKED, timeout=5.0):
    async def once():
        client = GeminiLegacyClient("fake-model", KEY, server.address, timeout)
        try:
            return await client.complete(request)
        finally:
            await client.close()

    return asyncio.run(once())


def reply_to(body, request=ASKED):
    with FakeServer(Answer(body)) as server:
        return complete(server, request)


# ---------------------------------------------------------------- what is sent


def test_a_request_as_the_service_gets_it():
    request = Request(
        "fake-model",
        (Message("system", "be brief"), Message("user", "a"), Message("assistant", "b"),
         Message("user", "c")),
        SCHEMA, max_tokens=99, temperature=0.5, top_p=0.75,
    )  # fmt: skip
    with FakeServer(Answer(gemini('{"answer": "x"}'))) as server:
        reply = complete(server, request)
    (seen,) = server.seen
    path = "/v1beta/models/fake-model:generateContent"
    assert (seen.method, seen.path.partition("?")[0]) == ("POST", path)
    assert seen.headers["x-goog-api-key"] == KEY and KEY not in seen.path
    assert [part["text"] for part in seen.body["systemInstruction"]["parts"]] == ["be brief"]
    assert [(c["role"], c["parts"]) for c in seen.body["contents"]] == [
        ("user", [{"text": "a"}]), ("model", [{"text": "b"}]), ("user", [{"text": "c"}]),
    ]  # fmt: skip
    config = seen.body["generationConfig"]
    assert (config["maxOutputTokens"], config["temperature"], config["topP"]) == (99, 0.5, 0.75)
    assert config["responseMimeType"] == "application/json"
    schema = config["responseSchema"]
    assert schema["required"] == ["answer"] and list(schema["properties"]) == ["answer"]
    assert reply.parsed == {"answer": "x"}


def test_what_it_cannot_do_is_refused_before_anything_is_sent():
    with FakeServer(Answer(gemini())) as server:
        for settings, words in (
            ({"thinking": "low"}, "no thinking: leave thinking out, or use gemini:fake-model"),
            ({"seed": 0}, "knows no seed: leave a seed out"),
            ({"schema": {"anyOf": [SCHEMA]}}, "knows no anyOf"),
            ({"schema": {"type": ["string", "integer"]}}, "one type for each value"),
        ):  # fmt: skip
            with pytest.raises(CallFailed, match=words) as refused:
                complete(server, Request("m", (Message("user", "a"),), **settings))
            assert not refused.value.again
    assert server.seen == []


def test_a_schema_as_its_record():
    schema = {"type": "array", "minItems": 1, "title": "left out",
              "items": {"type": ["integer", "null"], "enum": [1, 2], "minimum": 0}}  # fmt: skip
    inner = {"nullable": True, "type_": "INTEGER", "enum": ["1", "2"]}
    assert schema_record(schema) == {"type_": "ARRAY", "min_items": 1, "items": inner}


# ---------------------------------------------------------------- what comes back


def test_thoughts_are_not_glued_to_the_answer_and_are_counted():
    parts = [{"text": "hm", "thought": True}, {"text": "yes"}, {"text": " sir"}]
    counts = {"promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 40}
    reply = reply_to(gemini(parts=parts, usageMetadata=counts))
    assert reply.text == "yes sir" and reply.usage == Usage(7, 2, 40)
    assert (reply.finish_reason, reply.model_version) == ("stop", "fake-001") and reply.ms > 0


@pytest.mark.parametrize(
    ("body", "finish", "detail", "text"),
    [
        (gemini("so far", "MAX_TOKENS"), "max_tokens", "MAX_TOKENS", "so far"),
        (gemini(None, "MAX_TOKENS"), "max_tokens", "MAX_TOKENS", ""),
        (gemini(None, "SAFETY"), "blocked", "SAFETY", ""),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "blocked", "prompt: SAFETY", ""),
        (gemini("x", "A_WORD_OF_NEXT_YEAR"), "other", "A_WORD_OF_NEXT_YEAR", "x"),
        (gemini("x", usageMetadata={"promptTokenCount": "many"}), "stop", "STOP", "x"),
    ],
)
def test_why_it_ended(body, finish, detail, text):
    reply = reply_to(body)
    assert (reply.finish_reason, reply.detail, reply.text) == (finish, detail, text)


def test_malformed_json_where_a_schema_was_asked_for_and_no_candidate():
    assert reply_to(gemini('{"answer": "x"'), SHAPED).parsed is None
    with pytest.raises(CallFailed, match="without a candidate") as failed:
        reply_to({"candidates": []})
    assert failed.value.again


# ---------------------------------------------------------------- what breaks


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name, caplog):
    caplog.set_level(logging.DEBUG)
    answer, again, wait, words = FAULTS[name]
    with FakeServer(answer) as server:
        with pytest.raises(CallFailed) as failed:
            complete(server, timeout=0.5)
    assert (failed.value.again, failed.value.retry_after) == (again, wait)
    assert words in failed.value.reason
    assert len(server.seen) == 1, "not even after a 401, which the SDK would repeat"
    client = GeminiLegacyClient("fake-model", KEY, server.address)
    assert KEY not in traces(client, failed.value, caplog.records)
    assert KEY not in client.name + client.endpoint


def test_nobody_there_and_redirects():
    with FakeServer(Answer(gemini())) as elsewhere:
        to = {"Location": f"{elsewhere.address}/x"}
        with FakeServer(Answer(b"", 302, to)) as server:
            with pytest.raises(CallFailed, match="sends elsewhere") as failed:
                complete(server)
            with pytest.raises(CallFailed, match="sends elsewhere"):
                GeminiLegacyClient("", KEY, server.address).models()
        assert not failed.value.again and elsewhere.seen == []
    with pytest.raises(CallFailed, match="connection to gemini-legacy:fake-model broke") as failed:
        complete(server)
    assert failed.value.again


def test_two_clients_keep_their_own_keys_and_addresses():
    with FakeServer(Answer(gemini("one"))) as one, FakeServer(Answer(gemini("two"))) as two:
        first = GeminiLegacyClient("m", "key-of-the-first-0123", one.address)
        second = GeminiLegacyClient("m", "key-of-the-second-0123", two.address)

        async def both():
            return [(await client.complete(ASKED)).text for client in (first, second, first)]

        assert asyncio.run(both()) == ["one", "two", "one"]
    assert {seen.headers["x-goog-api-key"] for seen in one.seen} == {"key-of-the-first-0123"}


def test_many_at_once():
    """One after the other they would take 3 s; with asyncio's six threads 0.5 s."""
    with FakeServer(Answer(gemini(), delay=0.1)) as server:
        client = GeminiLegacyClient("m", KEY, server.address)

        async def many():
            return await asyncio.gather(*(client.complete(ASKED) for _ in range(30)))

        asyncio.run(many())
        begun = time.perf_counter()
        assert [reply.text for reply in asyncio.run(many())] == ["hello"] * 30
        assert time.perf_counter() - begun < 2.5
        asyncio.run(client.close())


def test_models_are_those_that_answer():
    models = [{"name": "models/b", "supportedGenerationMethods": ["generateContent"]},
              {"name": "models/e", "supportedGenerationMethods": ["embedContent"]},
              {"name": "models/a", "supportedGenerationMethods": ["generateContent"]}]  # fmt: skip
    with FakeServer(Answer({"models": models})) as server:
        assert GeminiLegacyClient("", KEY, server.address).models() == ["a", "b"]
    for answer in (error(401), Answer(b"\xff\xfe"), Answer({"models": []}, cut=3)):
        with FakeServer(answer) as server, pytest.raises(CallFailed) as failed:
            GeminiLegacyClient("", KEY, server.address).models()
        assert KEY not in failed.value.reason


# ---------------------------------------------------------------- imports and keys


def in_python(code, *arguments):
    process = subprocess.run(
        [sys.executable, *arguments, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip(), process.stderr


def test_the_sdk_is_imported_only_when_chosen_and_quietly():
    code = (
        "import sys, interp.judges.named, interp.judges.gemini, interp.judges.gemini_legacy\n"
        "from interp.judges.named import client_named\n"
        "seen = lambda: [m for m in ('google.generativeai', 'google.genai', 'openai', 'torch', "
        "'transformers', 'httpx2', 'requests') if m in sys.modules]\n"
        "first = seen()\n"
        "client_named('gemini:m', key='k' * 20)\n"
        "client_named('openai:m@http://127.0.0.1:9/v1')\n"
        "second = 'google.generativeai' in sys.modules\n"
        "client_named('gemini-legacy:m', key='k' * 20)\n"
        "print(first, second, 'google.generativeai' in sys.modules)\n"
    )
    said, warned = in_python(code, "-W", "default")
    assert said == "[] False True" and "Warning" not in warned


def test_a_key_that_is_none_is_refused_without_showing_it():
    with pytest.raises(WorkbenchError) as refused:
        GeminiLegacyClient("m", f"{KEY} x")
    assert KEY not in str(refused.value)
