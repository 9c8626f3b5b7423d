"""Gemini's batches: what is handed over, how they stand, replies in the order of the requests."""

import asyncio

import pytest

from interp.judges.client import CallFailed, Message, Request
from interp.judges.gemini import GeminiClient
from tests.interp.judges.fake_servers import KEY, SCHEMA, Answer, FakeServer, error, gemini

ASKED = Request("fake-model", (Message("user", "hello?"),))


def with_client(server, work):
    async def once():
        client = GeminiClient("fake-model", KEY, server.address, timeout=2.0)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(once())


def job(state, output=None, **more):
    metadata = {"state": f"BATCH_STATE_{state}", "displayName": "t", **more.pop("metadata", {})}
    if output is not None:
        metadata["output"] = {"inlinedResponses": {"inlinedResponses": output}}
    return {"name": "batches/abc", "metadata": metadata, **more}


def test_a_batch_as_it_is_handed_over():
    requests = [
        Request("fake-model", (Message("system", "s"), Message("user", "a")), SCHEMA, seed=1),
        Request("fake-model", (Message("user", "b"),), thinking="off", draw=1),
    ]
    with FakeServer(Answer(job("PENDING"))) as server:
        name = with_client(server, lambda client: client.submit(requests, "my title"))
    assert name == "batches/abc"
    (seen,) = server.seen
    assert seen.path == "/v1/models/fake-model:batchGenerateContent"
    batch = seen.body["batch"]
    assert batch["displayName"] == "my title"
    first, second = batch["inputConfig"]["requests"]["requests"]
    assert first["metadata"] == {"n": "0", "of": "2", "schema": "1"}
    assert first["request"]["systemInstruction"]["parts"] == [{"text": "s"}]
    assert first["request"]["generationConfig"]["responseJsonSchema"] == SCHEMA
    assert second["metadata"]["schema"] == "0"
    assert second["request"]["contents"] == [{"role": "user", "parts": [{"text": "b"}]}]
    assert second["request"]["generationConfig"]["thinkingConfig"] == {"thinking_budget": 0}


@pytest.mark.parametrize(
    ("body", "state", "done", "total", "detail"),
    [
        (job("PENDING"), "waiting", 0, 0, "PENDING"),
        (job("RUNNING", metadata={"batchStats": {"requestCount": "5",
             "successfulRequestCount": "2", "failedRequestCount": "1"}}), "running", 3, 5,
         "RUNNING"),
        (job("SUCCEEDED", [{"response": gemini()}]), "done", 1, 1, "SUCCEEDED"),
        (job("FAILED", error={"code": 3, "message": "bad"}), "failed", 0, 0, "3 bad"),
        (job("EXPIRED"), "failed", 0, 0, "EXPIRED"),
        (job("CANCELLED"), "cancelled", 0, 0, "CANCELLED"),
        ({"name": "batches/abc"}, "waiting", 0, 0, ""),
    ],
)  # fmt: skip
def test_how_a_batch_stands(body, state, done, total, detail):
    with FakeServer(Answer(body)) as server:
        stands = with_client(server, lambda client: client.batch("batches/abc"))
    assert server.seen[0].path == "/v1/batches/abc"
    assert (stands.state, stands.done, stands.total, stands.detail) == (
        state, done, total, detail,
    )  # fmt: skip


def test_the_replies_of_a_batch_in_the_order_of_its_requests():
    def about(n, schema="0"):
        return {"n": str(n), "of": "5", "schema": schema}

    output = [
        {"metadata": about(3), "error": {"code": 8, "message": f"too many, {KEY}"}},
        {"metadata": about(1, "1"), "response": gemini('{"answer": "1"}')},
        {"metadata": about(0), "response": gemini("zero")},
        {"metadata": about(4), "error": {"code": 3, "message": "bad"}},
    ]
    for body in (
        job("SUCCEEDED", output),
        job("SUCCEEDED", response={"inlinedResponses": output}),
        job("SUCCEEDED", response={"inlinedResponses": {"inlinedResponses": output}}),
    ):
        with FakeServer(Answer(body)) as server:
            zero, one, two, three, four = with_client(server, lambda c: c.fetch("batches/abc"))
        assert (zero.text, zero.parsed, one.parsed) == ("zero", None, {"answer": "1"})
        assert two.again and "without a result" in two.reason
        assert three.again and KEY not in three.reason and not four.again


def test_batches_that_cannot_be():
    def fails(body, work):
        with FakeServer(body) as server:
            with pytest.raises(CallFailed) as failed:
                with_client(server, work)
        assert KEY not in failed.value.reason
        return failed.value

    assert fails(Answer(job("RUNNING")), lambda c: c.fetch("batches/abc")).again
    assert not fails(Answer(job("FAILED")), lambda c: c.fetch("batches/abc")).again
    assert not fails(Answer(job("SUCCEEDED")), lambda c: c.fetch("batches/abc")).again
    assert not fails(Answer(), lambda c: c.fetch("../models")).again
    mixed = [ASKED, Request("other", ASKED.messages)]
    assert "fake-model and other" in fails(Answer(), lambda c: c.submit(mixed, "t")).reason
    assert "no request" in fails(Answer(), lambda c: c.submit([], "t")).reason
    large = [Request("m", (Message("user", "x" * 21_000_000),))]
    assert "21: split" in fails(Answer(), lambda c: c.submit(large, "t")).reason
    assert fails(error(429), lambda c: c.submit([ASKED], "t")).again
    cut = fails(Answer(job("PENDING"), cut=10), lambda c: c.submit([ASKED], "t"))
    assert not cut.again and "not known" in cut.reason, "it may be there, and would be paid twice"
