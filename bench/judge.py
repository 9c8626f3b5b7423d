"""Calls to a language-model service: how near to the ideal rate, and what a cached reply costs.

    python -m bench.judge [--at-once 32] [--ms 200] [--calls 1600] [--repeat 1] [--json]

A server of its own on this machine answers each request after the same time, so that n at once
could reach n / time. Asked through all that stands above a client (cache, budget, limits, retry,
record), by two clients: `plain` writes bytes to a socket, so what is missing is ours; `openai` is
the one for OpenAI-compatible servers. `alone` is the same client without any of that, a moment
before. Then the same requests again, from the cache; and with a client that answers at once, which
is what one call costs us. CPU seconds are of this process; --repeat takes the best of several, for
machines on which other work runs beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.wire import ROOT
from data.llm_cache import LlmCache
from data.llm_record import RunRecord
from interp.judges import one_loop
from interp.judges.budget import Budget, Prices
from interp.judges.calls import Caller
from interp.judges.client import Client, Message, Reply, Request, Usage
from interp.judges.limits import Limits
from interp.judges.openai_compatible import OpenAICompatibleClient

PROMPT = "0: the 1:  quick 2:  brown 3:  fox 4:  jumps 5:  over 6:  the 7:  lazy 8:  dog\n" * 40
SCHEMA = {
    "type": "object",
    "properties": {"levels": {"type": "array", "items": {"type": "integer"}}},
    "required": ["levels"],
    "additionalProperties": False,
}


def requests(calls: int, model: str) -> list[Request]:
    """Prompts of the length of a simulation's, all different."""
    return [
        Request(model, (Message("system", "Predict."), Message("user", f"{n}\n{PROMPT}")), SCHEMA)
        for n in range(calls)
    ]


class PlainClient:
    """Bytes on sockets that stay open, and nothing else."""

    name, model = "plain", "slow"

    def __init__(self, port: int) -> None:
        self.endpoint, self._port = f"http://127.0.0.1:{port}", port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def complete(self, request: Request) -> Reply:
        began = time.perf_counter()
        if not self._idle:
            self._idle.append(await asyncio.open_connection("127.0.0.1", self._port))
        reader, writer = self._idle.pop()
        body = json.dumps({"messages": [m.text for m in request.messages]}).encode()
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        answer = json.loads(await reader.readexactly(length))
        self._idle.append((reader, writer))
        text, used = answer["choices"][0]["message"]["content"], answer["usage"]
        usage = Usage(used["prompt_tokens"], used["completion_tokens"])
        ms = 1000 * (time.perf_counter() - began)
        return Reply(text, json.loads(text), "stop", "stop", usage, answer["model"], ms)

    def models(self) -> list[str] | None:
        return None

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


class InstantClient(PlainClient):
    """Answers before it is asked."""

    name = "instant"

    async def complete(self, request: Request) -> Reply:
        return Reply('{"levels": [0]}', {"levels": [0]}, "stop", "stop", Usage(900, 60), None, 0.0)


def alone(client: Client, calls: int, at_once: int) -> float:
    """Calls a second of the bare client."""
    todo = iter(requests(calls, client.model))

    async def worker() -> None:
        for request in todo:
            await client.complete(request)

    began = time.perf_counter()
    one_loop.run(one_loop.together(worker() for _ in range(at_once)))
    return calls / (time.perf_counter() - began)


@contextmanager
def slow_service(ms: float) -> Iterator[int]:
    """The port of a server that answers after `ms`."""
    command = [sys.executable, "-m", "bench.subjects.slow_service", str(ms / 1000)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()


def asked(client: Client, folder: Path, calls: int, at_once: int) -> dict:
    """Calls a second, first from the service, then from the cache."""
    all_of_them = requests(calls, client.model)

    def run() -> tuple[float, float]:
        budget = Budget(calls=10**9, tokens=10**12, money=10**6, prices=Prices(0.3, 2.5))
        limits = Limits(at_once, requests_a_minute=10**6, tokens_a_minute=10**10)
        record = RunRecord(folder / f"{time.time_ns()}.jsonl")
        caller = Caller(client, LlmCache(folder / "llm_cache"), limits, budget, record=record)
        began, used = time.perf_counter(), time.process_time()
        outcomes = caller.run_all(all_of_them)
        seconds, used = time.perf_counter() - began, time.process_time() - used
        wrong = [o.reason or o.reply.text for o in outcomes if not o.reply or not o.reply.parsed]
        if wrong:
            raise SystemExit(f"{len(wrong)} of {calls} calls failed: {wrong[0]}")
        return seconds, used

    bare = alone(client, calls, at_once)
    first, used = run()
    again, used_again = run()
    return {
        "client": client.name.partition(":")[0], "calls": calls, "seconds": round(first, 3),
        "calls_a_second": round(calls / first, 1), "alone_a_second": round(bare, 1),
        "cpu_ms_a_call": round(1000 * used / calls, 3),
        "cached_a_second": round(calls / again),
        "cpu_ms_a_hit": round(1000 * used_again / calls, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--ms", type=float, default=200.0)
    parser.add_argument("--calls", type=int, default=1600)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ideal = 1000 * args.at_once / args.ms
    print(f"{args.at_once} at once, {args.ms:g} ms each: {ideal:g} calls a second at best")
    print(
        f"{'client':<10}{'calls':>7}{'seconds':>9}{'calls/s':>9}{'of ideal':>10}{'alone':>9}"
        f"{'CPU ms':>8}{'cached/s':>10}{'CPU ms':>8}",
        flush=True,
    )
    rows = []
    with slow_service(args.ms) as port:
        # Connections and imports are made by the first calls, which are not measured.
        for make in (
            PlainClient,
            lambda port: OpenAICompatibleClient("slow", f"http://127.0.0.1:{port}/v1"),
            InstantClient,
        ):
            client = make(port)
            with tempfile.TemporaryDirectory() as folder:
                asked(client, Path(folder), args.at_once, args.at_once)
            found = []
            for _ in range(args.repeat):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(asked(client, Path(folder), args.calls, args.at_once))
            row = max(found, key=lambda one: one["calls_a_second"])
            row["of_ideal"] = (
                None if make is InstantClient else round(row["calls_a_second"] / ideal, 4)
            )
            share = "" if row["of_ideal"] is None else f"{row['of_ideal']:.1%}"
            print(
                f"{row['client']:<10}{row['calls']:>7,}{row['seconds']:>9.2f}"
                f"{row['calls_a_second']:>9.1f}{share:>10}{row['alone_a_second']:>9.1f}{row['cpu_ms_a_call']:>8.2f}"
                f"{row['cached_a_second']:>10,}{row['cpu_ms_a_hit']:>8.2f}",
                flush=True,
            )
            rows.append(row)
    if args.json:
        about = {"at_once": args.at_once, "ms": args.ms, "ideal": ideal, "cpus": os.cpu_count()}
        print(json.dumps({"bench": "judge", "rows": rows, **about}))


if __name__ == "__main__":
    main()
