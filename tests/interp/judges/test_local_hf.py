"""A tiny model of this machine as a client: batches, draws, ends, formats, and what it refuses."""

import asyncio
import threading

import pytest
import torch

from data.errors import ModelError
from interp.judges.client import CallFailed, Message, Request
from interp.judges.local_decoding import Row, decode
from interp.judges.local_hf import LocalClient, _Waiting
from interp.judges.local_prompts import plain_prompt, without_system, written
from tests import tiny
from tests.tiny import one_thread  # noqa: F401

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system message') }}{% endif %}"
    "<{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking %}<think>{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with a chat template."""
    saved = tiny.save(tmp_path_factory.mktemp("lm"))
    (saved / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return saved


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    """A model without one."""
    return tiny.save(tmp_path_factory.mktemp("plain"))


def ask(text="def return class", **settings):
    settings = {"max_tokens": 12, **settings}
    return Request("local", (Message("user", text),), **settings)


def complete(client, *requests):
    async def all_of_them():
        try:
            return await asyncio.gather(
                *(client.complete(request) for request in requests), return_exceptions=True
            )
        finally:
            await client.close()

    return asyncio.run(all_of_them())


def texts(replies):
    return [reply.text for reply in replies]


# ---------------------------------------------------------------- draws and batches


def test_a_draw_comes_out_again_whatever_is_in_its_batch(folder):
    requests = [ask(temperature=1.0, seed=3, draw=draw) for draw in range(4)]
    together = texts(complete(LocalClient(str(folder)), *requests))
    assert len(set(together)) == 4, "several draws are several replies"
    alone = LocalClient(str(folder), most=1)
    assert texts(complete(alone, *reversed(requests))) == together[::-1]
    others = [ask("a longer question ?", temperature=1.0), *requests]
    assert texts(complete(LocalClient(str(folder)), *others))[1:] == together
    assert texts(complete(alone, ask(temperature=1.0, seed=4))) != together[:1]
    greedy = [ask(temperature=0.0, seed=seed, draw=seed) for seed in range(3)]
    assert len(set(texts(complete(alone, *greedy)))) == 1


def test_requests_that_wait_are_answered_together(folder, monkeypatch):
    client, sizes = LocalClient(str(folder), most=4, gather_ms=20), []
    decoded = client._decoded
    monkeypatch.setattr(client, "_decoded", lambda rows: sizes.append(len(rows)) or decoded(rows))
    replies = complete(client, *(ask(f"text {n}", max_tokens=n + 1) for n in range(6)))
    assert sizes == [4, 2]
    assert [reply.usage.reply for reply in replies] == [1, 2, 3, 4, 5, 6]
    assert {reply.finish_reason for reply in replies} == {"max_tokens"}
    assert all(reply.usage.prompt > 5 and reply.ms > 0 for reply in replies)


def test_one_client_on_several_event_loops(folder):
    client = LocalClient(str(folder))
    first = complete(client, ask())
    assert texts(complete(client, ask())) == texts(first)
    found = []
    thread = threading.Thread(target=lambda: found.extend(texts(complete(client, ask()))))
    thread.start()
    thread.join()
    assert found == texts(first)


def test_who_gives_up_is_not_waited_for(folder):
    async def impatient():
        client = LocalClient(str(folder), gather_ms=50)
        task = asyncio.create_task(client.complete(ask()))
        await asyncio.sleep(0)
        task.cancel()
        reply = await client.complete(ask())
        await client.close()
        return reply

    assert asyncio.run(impatient()).text


def test_closing_leaves_nobody_waiting(folder):
    """One batch under way, one request not begun; the first ends with its next token."""
    begun = threading.Event()

    async def closed():
        client = LocalClient(str(folder), most=1, gather_ms=0)
        decoded = client._decoded
        client._decoded = lambda rows: begun.set() or decoded(rows)
        tasks = [asyncio.create_task(client.complete(ask(max_tokens=None))) for _ in range(2)]
        await asyncio.to_thread(begun.wait)
        await client.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(end) for end in asyncio.run(closed())] == [asyncio.CancelledError] * 2


def test_short_memory_halves_the_batch(folder, monkeypatch):
    sizes = []

    def short(model, rows):
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("none left")
        decode(model, rows)

    monkeypatch.setattr("interp.judges.local_hf.decode", short)
    client = LocalClient(str(folder))
    replies = complete(client, *(ask(f"text {n}") for n in range(4)))
    assert sizes == [4, 2, 1, 1, 2, 1, 1] and all(reply.text for reply in replies)
    assert client.most == 1

    def never(model, rows):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr("interp.judges.local_hf.decode", never)
    (failed,) = complete(client, ask())
    assert isinstance(failed, CallFailed) and not failed.again
    assert (
        "too little memory" in failed.reason and "GB of weights in float32 on cpu" in failed.reason
    )


# ---------------------------------------------------------------- formats


def prompt_of(folder, *messages, **settings):
    tokenizer = LocalClient(str(folder))._loaded().tokenizer
    return written(Request("m", messages, **settings), tokenizer, "hf:m")


def test_the_chat_template_and_one_that_knows_no_system_message(folder):
    said = [Message("user", "a"), Message("assistant", "b"), Message("user", "c")]
    plain = "<|bos|><user> a <end><assistant> b <end><user> c <end><assistant>"
    assert prompt_of(folder, *said) == (plain, True)
    folded = plain.replace("<user> a", "<user> be brief\n\na")
    assert prompt_of(folder, Message("system", "be brief"), *said) == (folded, True)
    assert prompt_of(folder, *said, thinking="high")[0] == plain + "<think>"
    assert prompt_of(folder, *said, thinking="off")[0] == plain
    with pytest.raises(CallFailed, match="refuses: no system message"):
        prompt_of(folder, Message("user", "a"), Message("system", "b"))
    with pytest.raises(CallFailed, match="'512' cannot be asked"):
        prompt_of(folder, *said, thinking="512")


def test_a_prompt_has_one_first_token(folder, plain_folder):
    for saved in (folder, plain_folder):
        client = LocalClient(str(saved))
        client._lm = client._loaded()
        loop = asyncio.new_event_loop()
        row = client._row(_Waiting(ask(), loop.create_future()))
        loop.close()
        assert row.prompt.count(0) == 1 and row.prompt[0] == 0


def test_the_plain_format_by_hand(plain_folder):
    messages = [Message("system", "s"), Message("user", "a"), Message("assistant", "b"),
                Message("user", "c")]  # fmt: skip
    expected = "s\n\nUser: a\nAssistant: b\nUser: c\nAssistant:"
    assert plain_prompt(messages) == expected
    assert prompt_of(plain_folder, *messages) == (expected, False)
    assert without_system(messages[:1]) == messages[:1]


def test_a_plain_reply_ends_where_it_would_speak_for_the_user(plain_folder, monkeypatch):
    client = LocalClient(str(plain_folder))

    def speaks(model, rows):
        ids = client._lm.tokenizer(" yes\nUser: and", add_special_tokens=False)["input_ids"]
        for row in rows:
            for token in ids:
                if not row.finish:
                    row.tokens.append(token)
                    row.finish = "stop" if row.stops_at(row.tokens) else ""

    monkeypatch.setattr("interp.judges.local_hf.decode", speaks)
    (reply,) = complete(client, ask())
    assert (reply.text, reply.finish_reason) == ("yes", "stop")


def says(monkeypatch, client, text):
    def speaks(model, rows):
        for row in rows:
            row.tokens = client._lm.tokenizer(text, add_special_tokens=False)["input_ids"]
            row.finish = "stop"

    monkeypatch.setattr("interp.judges.local_hf.decode", speaks)


def test_a_schema_goes_into_the_prompt_and_json_comes_out(folder, monkeypatch):
    schema = {"type": "object", "properties": {"answer": {}}}
    text, _ = prompt_of(folder, Message("user", "a"), schema=schema)
    assert "<user> a\n\nAnswer with one JSON object" in text and '"answer"' in text
    client = LocalClient(str(folder))
    client._row = lambda waiting: Row([0], 9, 0.0, 1.0, b"")
    says(monkeypatch, client, 'Sure: {"answer": [1]} {"answer": 2}')
    (reply,) = complete(client, ask(schema=schema))
    assert reply.parsed == {"answer": [1]} and reply.text.startswith("Sure")
    (reply,) = complete(client, ask())
    assert reply.parsed is None


def test_thoughts_are_left_out_and_counted(folder, monkeypatch):
    client = LocalClient(str(folder))
    for text, thinking in (("<think>hm hm</think> yes", None), ("hm hm</think> yes", "high")):
        says(monkeypatch, client, text)
        (reply,) = complete(client, ask(thinking=thinking, text="a"))
        assert reply.text == "yes" and reply.usage.thoughts > reply.usage.reply > 0


# ---------------------------------------------------------------- what it refuses


def test_prompts_that_are_too_long(folder):
    (long, short) = complete(LocalClient(str(folder)), ask("read write " * 80), ask("x"))
    assert isinstance(long, CallFailed) and not long.again and "reads 64" in long.reason
    assert short.text, "one that fails leaves the others alone"
    (reply,) = complete(LocalClient(str(folder)), ask("x", max_tokens=None))
    assert reply.usage.prompt + reply.usage.reply <= 64


def test_models_that_are_not_there(tmp_path):
    for path, words in ((str(tmp_path / "no"), "no model folder"), (str(tmp_path), "config.json")):
        (failed,) = complete(LocalClient(path), ask())
        assert isinstance(failed, CallFailed) and not failed.again and words in failed.reason
    with pytest.raises(ModelError, match="tpu"):
        LocalClient("demo", device="tpu")
    with pytest.raises(ModelError, match="int8"):
        LocalClient("demo", dtype="int8")


def test_other_weights_and_dtypes_are_other_endpoints(folder, tmp_path):
    first = LocalClient(str(folder))
    assert first.endpoint == LocalClient(str(folder)).endpoint and first.models() is None
    other = tiny.save(tmp_path / "lm", seed=1)
    half = LocalClient(str(folder), dtype="bfloat16")
    assert len({first.endpoint, LocalClient(str(other)).endpoint, half.endpoint}) == 3
    assert first.name == f"hf:{folder}" and first.memory() == ""
