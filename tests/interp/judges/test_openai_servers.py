"""What servers that speak chat completions do not share, and how the client learns it."""

import asyncio

import pytest

from interp.judges.client import CallFailed, Message, Request
from interp.judges.openai_compatible import OpenAICompatibleClient
from tests.interp.judges.fake_servers import KEY, SCHEMA, Answer, FakeServer, error, openai

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


def shape_of(seen):
    return (seen.body.get("response_format") or {}).get("type")


@pytest.mark.parametrize(
    ("refused", "shapes"),
    [
        ({"json_schema": (400, "response_format json_schema is not supported")},
         ["json_schema", "json_object"]),
        ({"json_schema": (422, "Unknown response_format"),
          "json_object": (400, "'response_format.type' must be 'text'")},
         ["json_schema", "json_object", None]),
        ({"json_schema": (500, "failed to parse grammar")}, ["json_schema", "json_object"]),
    ],
)  # fmt: skip
def test_a_server_without_schemas_is_asked_in_words_and_remembered(refused, shapes):
    def answer(seen):
        status = refused.get(shape_of(seen))
        return error(*status) if status else Answer(openai('Sure! ```json\n{"answer": "x"}\n```'))

    async def twice(client):
        return [await client.complete(SHAPED), await client.complete(SHAPED)]

    with FakeServer(answer) as server:
        replies = with_client(server, twice)
    assert [reply.parsed for reply in replies] == [{"answer": "x"}] * 2
    assert [shape_of(seen) for seen in server.seen] == [*shapes, shapes[-1]]
    (message,) = server.seen[-1].body["messages"]
    assert message["content"].startswith("hello?\n\n") and '"answer"' in message["content"]


def test_a_server_that_refuses_everything_or_for_another_reason():
    with FakeServer(error(400, "response_format is not supported")) as server:
        with pytest.raises(CallFailed) as failed:
            complete(server, SHAPED)
    assert len(server.seen) == 3 and not failed.value.again
    with FakeServer(error(400, "the prompt is too long")) as server:
        with pytest.raises(CallFailed, match="too long"):
            complete(server, SHAPED)
    assert len(server.seen) == 1
    with FakeServer(error(400, "response_format is not supported")) as server:
        with pytest.raises(CallFailed):
            complete(server, ASKED)
    assert len(server.seen) == 1, "nothing was asked for"


def test_max_completion_tokens_where_the_server_asks_for_it():
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."

    def answer(seen):
        return error(400, said) if "max_tokens" in seen.body else Answer(openai())

    async def twice(client):
        await client.complete(ASKED)
        return await client.complete(ASKED)

    with FakeServer(answer) as server:
        assert with_client(server, twice).text == "hello"
    assert ["max_completion_tokens" in seen.body for seen in server.seen] == [False, True, True]
