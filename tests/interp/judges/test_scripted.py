"""Recorded replies: by request, in order, from a function; misses; files that are none."""

import asyncio
import json

import pytest

from data.errors import WorkbenchError
from interp.judges.client import CallFailed, Message, Reply, Request, Usage
from interp.judges.scripted import ScriptedClient, line_of, request_hash

ASKED = Request("m", (Message("user", "hello?"),))
SHAPED = Request("m", (Message("user", "hello?"),), {"type": "object"})


def complete(client, request=ASKED):
    return asyncio.run(client.complete(request))


def test_every_field_of_a_request_changes_its_hash():
    """All of them decide a reply, the draw too."""
    others = [
        Request("n", ASKED.messages), SHAPED,
        Request("m", (Message("system", "hello?"),)), Request("m", (Message("user", "hello"),)),
        *(Request("m", ASKED.messages, **{name: 3})
          for name in ("max_tokens", "temperature", "top_p", "seed", "thinking", "draw")),
    ]  # fmt: skip
    assert len({request_hash(request) for request in [ASKED, *others]}) == len(others) + 1
    assert request_hash(ASKED) == request_hash(Request("m", (Message("user", "hello?"),)))
    assert len(request_hash(Request("m", (Message("user", "\udcff"),)))) == 64, "any text"


def test_by_request(tmp_path):
    path = tmp_path / "replies.jsonl"
    full = Reply('{"a": 1}', {"a": 1}, "max_tokens", "MAX", Usage(1, 2, 3, 4), "v", 5.0)
    lines = [
        line_of(SHAPED, full),
        "",
        line_of(Request("m", (), draw=1), CallFailed("down", True, 3.0)),
        json.dumps({"request": request_hash(ASKED), "text": '{"b": 2}'}),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    client = ScriptedClient(path)
    assert complete(client, SHAPED) == full and complete(client, SHAPED) == full
    plain = Reply('{"b": 2}', None, "stop", "scripted", Usage(), None, 0.0)
    assert complete(client) == plain
    with pytest.raises(CallFailed, match="down") as failed:
        complete(client, Request("m", (), draw=1))
    assert (failed.value.again, failed.value.retry_after) == (True, 3.0)
    with pytest.raises(CallFailed, match="no reply to request") as failed:
        complete(client, Request("m", (), draw=2))
    assert not failed.value.again
    assert client.name == f"scripted:{path}" and client.models() is None


def test_in_order(tmp_path):
    path = tmp_path / "replies.jsonl"
    path.write_text('{"text": "{}"}\n{"failed": "no"}\n', encoding="utf-8")
    client = ScriptedClient(str(path))
    assert complete(client, SHAPED).parsed == {}
    with pytest.raises(CallFailed, match="no"):
        complete(client)
    with pytest.raises(CallFailed, match="has 2 replies, and this is request 3") as failed:
        complete(client)
    assert not failed.value.again


def test_other_replies_are_another_endpoint(tmp_path):
    path = tmp_path / "replies.jsonl"
    endpoints = set()
    for text in ("a", "b"):
        path.write_text(json.dumps({"text": text}), encoding="utf-8")
        endpoints.add(ScriptedClient(path).endpoint)
    assert len(endpoints) == 2


def test_a_function_in_all_it_may_return():
    async def later(request):
        return f"{request.draw} later"

    reply = Reply("x", None, "blocked", "why", Usage(), None, 1.0)
    assert complete(ScriptedClient(lambda request: reply)) is reply
    assert complete(ScriptedClient(lambda request: "text")).text == "text"
    assert complete(ScriptedClient(lambda request: {"a": 1}), SHAPED).parsed == {"a": 1}
    assert complete(ScriptedClient(later)).text == "0 later"
    with pytest.raises(CallFailed, match="never"):
        complete(ScriptedClient(lambda request: CallFailed("never", again=False)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "line 1: no JSON object"),
        ('{"text": "a"}\n[]', "line 2: no JSON object"),
        ('{"text": "a", "failed": "b"}', 'either "text" or "failed"'),
        ('{"text": "a", "finish": "stop"}', "'finish' is unknown"),
        ('{"request": "x", "text": "a"}\n{"request": "x", "text": "b"}', "a second line"),
        ('{"request": "x", "text": "a"}\n{"text": "b"}', "choose one"),
        ('{"text": 3}', "text is no text"),
        ('{"text": "a", "usage": {"tokens": 3}}', "usage"),
        ('{"text": "a", "ms": "soon"}', "ms"),
        ('{"text": "a", "finish_reason": "done"}', "finish_reason"),
    ],
)
def test_files_that_are_no_script(tmp_path, text, words):
    path = tmp_path / "replies.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WorkbenchError, match=words):
        ScriptedClient(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(WorkbenchError, match="No such file"):
        ScriptedClient(tmp_path / "nothing")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(WorkbenchError, match="no UTF-8"):
        ScriptedClient(tmp_path / "bytes")
