"""A service that answers every request after the same time, as a process of its own.

In:  `python -m bench.subjects.slow_service SECONDS`. Out: its port on the first line; POSTs to any
     path are answered as an OpenAI-compatible server answers chat completions, until it is ended.

It does next to nothing for a request, so that what is measured is whoever asks.
"""

from __future__ import annotations

import asyncio
import json
import sys

BODY = json.dumps({
    "id": "x", "object": "chat.completion", "created": 0, "model": "slow-001",
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": '{"levels": [0, 3, 0, 10]}'}}],
    "usage": {"prompt_tokens": 900, "completion_tokens": 60, "total_tokens": 960},
}).encode()  # fmt: skip
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
)  # fmt: skip


async def converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Answers one request after the other on a connection that stays open."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            await reader.readexactly(int(length or 0))
            await asyncio.sleep(seconds)
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):  # the other side has gone
        writer.close()


async def serve(seconds: float) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: converse(reader, writer, seconds), "127.0.0.1", 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
