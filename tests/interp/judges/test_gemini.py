"""The Gemini client against a server on this machine that speaks its protocol, and misbehaves."""

import asyncio
import json
import logging

import pytest

from data.errors import WorkbenchError
from interp.judges.client import CallFailed, Message, Request, Usage
from interp.judges.gemini import GeminiClient
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


def complete(server, request=ASKED, timeout=5.0, **settings):
    """One reply of a client of its own."""

    async def once():
        client = GeminiClient("fake-model", KEY, server.address, timeout=timeout, **settings)
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
        SCHEMA, max_tokens=99, temperature=0.5, top_p=0.9, seed=5, thinking="low", draw=2,
    )  # fmt: skip
    with FakeServer(Answer(gemini('{"answer": "x"}'))) as server:
        reply = complete(server, request)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/models/fake-model:generateContent")
    assert seen.headers["x-goog-api-key"] == KEY and KEY not in seen.path
    assert seen.body == {
        "systemInstruction": {"parts": [{"text": "be brief"}], "role": "user"},
        "contents": [
            {"role": "user", "parts": [{"text": "a"}]},
            {"role": "model", "parts": [{"text": "b"}]},
            {"role": "user", "parts": [{"text": "c"}]},
        ],
        "generationConfig": {
            "temperature": 0.5, "topP": 0.9, "seed": 7, "maxOutputTokens": 99,
            "thinkingConfig": {"thinking_level": "LOW"},
            "responseMimeType": "application/json", "responseJsonSchema": SCHEMA,
        },
    }, "the seed is that of the draw: 5 + 2"  # fmt: skip
    assert reply.parsed == {"answer": "x"}


def test_what_is_not_set_is_not_sent():
    with FakeServer(Answer(gemini())) as server:
        complete(server, Request("fake-model", (Message("user", "a"),), max_tokens=None))
    assert "generationConfig" not in server.seen[0].body or not server.seen[0].body.get(
        "generationConfig"
    )


@pytest.mark.parametrize(
    ("thinking", "sent"),
    [
        ("off", {"thinking_budget": 0}),
        ("512", {"thinking_budget": 512}),
        ("minimal", {"thinking_level": "MINIMAL"}),
        ("high", {"thinking_level": "HIGH"}),
    ],
)
def test_thinking_as_it_is_sent(thinking, sent):
    """The SDK writes these two names with underscores; the service's JSON takes either."""
    with FakeServer(Answer(gemini())) as server:
        complete(server, Request("m", (Message("user", "a"),), thinking=thinking))
    assert server.seen[0].body["generationConfig"]["thinkingConfig"] == sent


def test_an_unknown_thinking_and_a_refused_one_say_what_can_be_done():
    request = Request("m", (Message("user", "a"),), thinking="minimal")
    with FakeServer(error(400, "Thinking level MINIMAL is not supported")) as server:
        with pytest.raises(CallFailed, match="'minimal', and models differ.*low") as refused:
            complete(server, request)
        assert not refused.value.again
        with pytest.raises(CallFailed, match="'lots' is unknown"):
            complete(server, Request("m", (Message("user", "a"),), thinking="lots"))
        assert len(server.seen) == 1
        with pytest.raises(CallFailed, match="asks nothing"):
            complete(server, Request("m", (Message("system", "a"),)))


# ---------------------------------------------------------------- what comes back


def test_a_plain_reply():
    reply = reply_to(gemini("hello"))
    assert (reply.text, reply.parsed, reply.finish_reason, reply.detail) == (
        "hello", None, "stop", "STOP",
    )  # fmt: skip
    assert reply.usage == Usage(prompt=7, reply=3) and reply.model_version == "fake-001"
    assert reply.ms > 0


def test_thoughts_are_counted_and_left_out():
    parts = [{"text": "hm", "thought": True}, {"text": "yes"}, {"text": " sir"}]
    counts = {"promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 40,
              "cachedContentTokenCount": 5}  # fmt: skip
    reply = reply_to(gemini(parts=parts, usageMetadata=counts))
    assert reply.text == "yes sir" and reply.usage == Usage(7, 2, 40, 5)


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"promptTokenCount": "12"}, Usage(prompt=12)),
        ({"promptTokenCount": "many", "candidatesTokenCount": -3}, Usage()),
        ({"promptTokenCount": 1.5, "candidatesTokenCount": True}, Usage()),
        ([], Usage()),
        (None, Usage()),
    ],
)
def test_wrong_counts_of_tokens_are_no_counts_and_lose_no_reply(counts, usage):
    reply = reply_to(gemini("hello", usageMetadata=counts))
    assert (reply.text, reply.usage) == ("hello", usage)


@pytest.mark.parametrize(
    ("body", "finish", "detail", "text"),
    [
        (gemini("so far", "MAX_TOKENS"), "max_tokens", "MAX_TOKENS", "so far"),
        (gemini(None, "MAX_TOKENS"), "max_tokens", "MAX_TOKENS", ""),
        (gemini(None, "SAFETY"), "blocked", "SAFETY", ""),
        (gemini(None, "RECITATION"), "blocked", "RECITATION", ""),
        (gemini(None, "PROHIBITED_CONTENT"), "blocked", "PROHIBITED_CONTENT", ""),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "blocked", "prompt: SAFETY", ""),
        (gemini("x", "MALFORMED_RESPONSE"), "other", "MALFORMED_RESPONSE", "x"),
        (gemini("x", "A_WORD_OF_NEXT_YEAR"), "other", "A_WORD_OF_NEXT_YEAR", "x"),
        (gemini("x", None), "other", "", "x"),
        (gemini(None), "stop", "STOP", ""),
        (gemini(parts=[{"functionCall": {}}, 7, {"text": None}]), "stop", "STOP", ""),
    ],
)
def test_why_it_ended(body, finish, detail, text):
    reply = reply_to(body)
    assert (reply.finish_reason, reply.detail, reply.text) == (finish, detail, text)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"answer": "x"}', {"answer": "x"}),
        ('{"answer": "x"', None),
        ('{"answer": NaN}', None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_json_where_a_schema_was_asked_for(text, parsed):
    request = Request("m", (Message("user", "a"),), SCHEMA)
    reply = reply_to(gemini(text), request)
    assert reply.parsed == parsed and reply.text == text
    assert reply_to(gemini(text)).parsed is None, "no schema, no JSON"


@pytest.mark.parametrize("candidates", [[], None, {}, [None], ["x"]])
def test_an_answer_without_a_candidate_may_be_asked_for_again(candidates):
    with pytest.raises(CallFailed, match="without a candidate") as failed:
        reply_to({"candidates": candidates, "usageMetadata": {"promptTokenCount": 3}})
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
    assert len(server.seen) == 1, "retries are for those above"
    client = GeminiClient("fake-model", KEY, server.address)
    assert KEY not in traces(client, failed.value, caplog.records)
    assert KEY not in client.name + client.endpoint


def test_nobody_there():
    with FakeServer(Answer()) as server:
        pass
    with pytest.raises(CallFailed, match="cannot be reached") as failed:
        complete(server)
    assert failed.value.again


def test_a_redirect_is_not_followed():
    with FakeServer(Answer(gemini())) as elsewhere:
        to = {"Location": f"{elsewhere.address}/v1/x"}
        with FakeServer(Answer(b"", 307, to)) as server:
            with pytest.raises(CallFailed, match="sends elsewhere") as failed:
                complete(server)
            with pytest.raises(CallFailed, match="sends elsewhere"):
                GeminiClient("m", KEY, server.address).models()
    assert not failed.value.again and elsewhere.seen == []


def test_the_environment_sends_nothing_elsewhere(monkeypatch):
    with FakeServer(Answer(gemini())) as elsewhere, FakeServer(Answer(gemini())) as server:
        for name in ("GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE"):
            monkeypatch.setenv(name, "true")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
        monkeypatch.setenv("GOOGLE_API_KEY", "another-key-0123456789")
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", elsewhere.address)
        monkeypatch.setenv("HTTP_PROXY", elsewhere.address)
        complete(server)
    assert elsewhere.seen == [] and server.seen[0].headers["x-goog-api-key"] == KEY


def test_the_version_of_the_protocol_can_be_chosen(monkeypatch):
    with FakeServer(Answer(gemini())) as server:
        complete(server, api_version="v1beta")
        monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "beta")
        complete(server)
    assert [seen.path.split("/")[1] for seen in server.seen] == ["v1beta", "v1beta"]


def test_a_key_that_is_none_and_an_address_that_holds_one_are_refused():
    with pytest.raises(WorkbenchError) as refused:
        GeminiClient("m", f"{KEY}\nX-Header: y")
    assert KEY not in str(refused.value)
    with pytest.raises(WorkbenchError) as refused:
        GeminiClient("m", KEY, f"http://127.0.0.1/?key={KEY}")
    assert KEY not in str(refused.value)


def test_a_key_echoed_in_a_reply_is_taken_out():
    assert reply_to(gemini(f"your key is {KEY}!")).text == "your key is ***!"


def test_any_character_comes_through():
    """Characters that are more than one in UTF-16 come through."""
    body = json.dumps(gemini("ünïcode \u2028 \ud83d\ude00")).encode()
    assert reply_to(body).text == "ünïcode \u2028 😀"


# ---------------------------------------------------------------- loops, models


def test_one_client_on_several_event_loops_and_many_at_once():
    with FakeServer(Answer(gemini(), delay=0.05)) as server:
        client = GeminiClient("fake-model", KEY, server.address)

        async def several():
            replies = await asyncio.gather(*(client.complete(ASKED) for _ in range(20)))
            await client.close()
            return replies

        for _ in range(2):
            assert [reply.text for reply in asyncio.run(several())] == ["hello"] * 20


def test_models_are_those_that_answer():
    pages = [
        {"models": [{"name": "models/b", "supportedGenerationMethods": ["generateContent"]},
                    {"name": "models/e", "supportedGenerationMethods": ["embedContent"]}],
         "nextPageToken": "more"},
        {"models": [{"name": "models/a", "supportedGenerationMethods": ["generateContent"]}]},
    ]  # fmt: skip
    with FakeServer(*(Answer(page) for page in pages)) as server:
        assert GeminiClient("", KEY, server.address).models() == ["a", "b"]
    with FakeServer(error(401, "bad key")) as server:
        with pytest.raises(CallFailed, match="check the key") as failed:
            GeminiClient("", KEY, server.address).models()
    assert KEY not in failed.value.reason
