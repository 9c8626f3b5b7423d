"""The OpenAI-compatible client against a server that speaks chat completions, and misbehaves."""

import asyncio
import logging

import pytest

from data.errors import WorkbenchError
from interp.judges.client import CallFailed, Message, Request, Usage
from interp.judges.openai_compatible import OpenAICompatibleClient
from tests.interp.judges.fake_servers import (
    FAULTS,
    KEY,
    SCHEMA,
    Answer,
    FakeServer,
    error,
    openai,
    traces,
)

ASKED = Request("fake-model", (Message("user", "hello?"),))
SHAPED = Request("fake-model", (Message("user", "hello?"),), SCHEMA)


def with_client(server, work, **settings):
    settings = {"key": KEY, "timeout": 5.0, **settings}

    async def once():
        client = OpenAICompatibleClient("fake-model", f"{server.address}/v1", **settings)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(once())


def complete(server, request=ASKED, **settings):
    return with_client(server, lambda client: client.complete(request), **settings)


def reply_to(body, request=ASKED):
    with FakeServer(Answer(body)) as server:
        return complete(server, request)


# ---------------------------------------------------------------- what is sent


def test_a_request_as_the_server_gets_it():
    request = Request(
        "fake-model",
        (Message("system", "be brief"), Message("user", "a"), Message("assistant", "b"),
         Message("user", "c")),
        SCHEMA, max_tokens=99, temperature=0.5, top_p=0.9, seed=5, thinking="low", draw=2,
    )  # fmt: skip
    with FakeServer(Answer(openai('{"answer": "x"}'))) as server:
        reply = complete(server, request)
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.headers["authorization"] == f"Bearer {KEY}" and KEY not in seen.path
    shape = {"name": "reply", "schema": SCHEMA, "strict": True}
    assert seen.body == {
        "model": "fake-model",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "temperature": 0.5, "top_p": 0.9, "max_tokens": 99, "reasoning_effort": "low",
        "seed": 7,
        "response_format": {"type": "json_schema", "json_schema": shape},
    }, "the seed is that of the draw: 5 + 2"  # fmt: skip
    assert reply.parsed == {"answer": "x"}


def test_what_is_not_set_is_not_sent_and_no_key_is_needed(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "key-of-the-environment")
    request = Request("m", (Message("user", "a"),), max_tokens=None)
    with FakeServer(Answer(openai())) as server:
        complete(server, request, key=None)
    assert server.seen[0].body == {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    assert "environment" not in repr(server.seen[0].headers), "named.py reads it, nobody else"


def test_a_schema_that_leaves_keys_open_is_not_strict():
    open_schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    nested = {**SCHEMA, "properties": {"answer": {"type": "array", "items": open_schema}}}
    with FakeServer(Answer(openai("{}"))) as server:
        for schema in (open_schema, nested):
            complete(server, Request("m", (Message("user", "a"),), schema))
    for seen in server.seen:
        assert seen.body["response_format"]["json_schema"]["strict"] is False


def test_thinking_off_and_what_cannot_be_asked():
    with FakeServer(Answer(openai())) as server:
        complete(server, Request("m", (Message("user", "a"),), thinking="off"))
        assert server.seen[0].body["reasoning_effort"] == "none"
        with pytest.raises(CallFailed, match="'512' cannot be asked"):
            complete(server, Request("m", (Message("user", "a"),), thinking="512"))
    with FakeServer(error(400, "reasoning_effort: unknown field")) as server:
        with pytest.raises(CallFailed, match="thinking was 'low'.*leave it out") as refused:
            complete(server, Request("m", (Message("user", "a"),), thinking="low"))
    assert not refused.value.again


# ---------------------------------------------------------------- what comes back


def test_a_plain_reply():
    reply = reply_to(openai("hello"))
    assert (reply.text, reply.parsed, reply.finish_reason, reply.detail) == (
        "hello", None, "stop", "stop",
    )  # fmt: skip
    assert reply.usage == Usage(prompt=7, reply=3) and reply.model_version == "fake-001"


@pytest.mark.parametrize(
    ("body", "finish", "detail", "text"),
    [
        (openai("so far", "length"), "max_tokens", "length", "so far"),
        (openai(None, "length"), "max_tokens", "length", ""),
        (openai("", "content_filter"), "blocked", "content_filter", ""),
        (openai(None, message={"refusal": "I will not"}), "blocked", "refusal", ""),
        (openai("x", "tool_calls"), "other", "tool_calls", "x"),
        (openai("x", None), "other", "", "x"),
        (openai("x", "eos_token"), "stop", "eos_token", "x"),
        (openai([{"type": "text", "text": "a"}, {"type": "image"}, 3, {"text": "b"}]), "stop",
         "stop", "ab"),
        (openai("answer", message={"reasoning_content": "hm", "reasoning": "hm"}), "stop", "stop",
         "answer"),
        (openai("<think>\nhm {1}\n</think>\n\nthe token </think>"), "stop", "stop",
         "the token </think>"),
        (openai("<think>on and on", "length"), "max_tokens", "length", ""),
        (openai("it fires on <think>"), "stop", "stop", "it fires on <think>"),
    ],
)  # fmt: skip
def test_why_it_ended_and_the_answer_alone(body, finish, detail, text):
    reply = reply_to(body)
    assert (reply.finish_reason, reply.detail, reply.text) == (finish, detail, text)


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 50,
          "completion_tokens_details": {"reasoning_tokens": 40},
          "prompt_tokens_details": {"cached_tokens": 4}}, Usage(7, 10, 40, 4)),
        ({"prompt_tokens": 7, "completion_tokens": 5,
          "completion_tokens_details": {"reasoning_tokens": 40}}, Usage(7, 5, 40)),
        ({"prompt_tokens": "x", "completion_tokens": -1, "completion_tokens_details": 3}, Usage()),
        ({"completion_tokens_details": None}, Usage()),
        (None, Usage()),
        ("free", Usage()),
    ],
)  # fmt: skip
def test_usage_right_wrong_or_missing(counts, usage):
    reply = reply_to(openai("x", usage=counts))
    assert (reply.text, reply.usage) == ("x", usage)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"answer": "x"}', {"answer": "x"}),
        ('Here: {"answer": "x"} and {"answer": "y"}', {"answer": "x"}),
        ('a set {1, 2} first, {"answer": "x"}', {"answer": "x"}),
        ('{"answer": "x"', None),
        ("[1, 2]", None),
        ("{" * 5_000, None),
        ("", None),
    ],
)
def test_json_where_a_schema_was_asked_for(text, parsed):
    reply = reply_to(openai(text), SHAPED)
    assert reply.parsed == parsed and reply.text == text


@pytest.mark.parametrize(
    ("body", "again", "words"),
    [
        ({"error": {"code": 429, "message": f"slow down {KEY}"}}, True, "slow down"),
        ({"error": {"code": 402, "message": "no credit"}}, False, "no credit"),
        ({"error": {"message": "?"}}, True, "?"),
        ({"error": "words"}, True, "words"),
        (openai(None, choice={"error": {"message": f"lost {KEY}"}}), True, "broke off: lost"),
        ({"choices": []}, True, "without a choice"),
        ({"choices": [None]}, True, "without a choice"),
    ],
)
def test_failures_that_come_with_status_200(body, again, words):
    with pytest.raises(CallFailed) as failed:
        reply_to(body)
    assert failed.value.again == again and words in failed.value.reason
    assert KEY not in failed.value.reason


def test_a_prompt_that_is_blocked_with_an_error():
    with FakeServer(error(400, "filtered", code="content_filter")) as server:
        reply = complete(server)
    assert (reply.finish_reason, reply.detail, reply.text) == (
        "blocked", "prompt: content_filter", "",
    )  # fmt: skip


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
    client = OpenAICompatibleClient("fake-model", f"{server.address}/v1", KEY)
    assert KEY not in traces(client, failed.value, caplog.records)
    assert KEY not in client.name + client.endpoint


def test_milliseconds_to_wait_and_half_hidden_keys():
    said = error(429, "Incorrect API key sk-ab***wxyz", headers={"retry-after-ms": "1500"})
    with FakeServer(said) as server:
        with pytest.raises(CallFailed) as failed:
            complete(server)
    assert failed.value.retry_after == 1.5 and "wxyz" not in failed.value.reason


def test_nobody_there_and_redirects():
    with FakeServer(Answer(openai())) as elsewhere:
        with FakeServer(Answer(b"", 302, {"Location": f"{elsewhere.address}/v1"})) as server:
            with pytest.raises(CallFailed, match="sends elsewhere") as failed:
                complete(server)
        assert not failed.value.again and elsewhere.seen == []
    with pytest.raises(CallFailed, match="cannot be reached") as failed:
        complete(server)
    assert failed.value.again


def test_addresses_that_cannot_be():
    for address in ("localhost:8000", "ftp://h/v1", "http://", f"https://me:{KEY}@host/v1"):
        with pytest.raises(WorkbenchError) as refused:
            OpenAICompatibleClient("m", address)
        assert KEY not in str(refused.value)


def test_the_environment_sends_nothing_elsewhere(monkeypatch):
    with FakeServer(Answer(openai())) as elsewhere, FakeServer(Answer(openai())) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.address)
        monkeypatch.setenv("HTTP_PROXY", elsewhere.address)
        monkeypatch.setenv("ALL_PROXY", elsewhere.address)
        complete(server)
    assert elsewhere.seen == [] and len(server.seen) == 1


# ---------------------------------------------------------------- models


def test_models():
    def listed(answer):
        with FakeServer(answer) as server:
            found = OpenAICompatibleClient("", f"{server.address}/v1", KEY).models()
        assert server.seen[0].path == "/v1/models"
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
        return found

    assert listed(Answer({"data": [{"id": "b"}, {"id": "a"}, {}, None]})) == ["a", "b"]
    assert listed(Answer({"data": None})) == []
    assert listed(error(404)) is None, "a server without a list"
    for answer in (error(401), Answer(b"\xff\xfe"), Answer({"data": []}, cut=3)):
        with pytest.raises(CallFailed) as failed:
            listed(answer)
        assert KEY not in failed.value.reason
