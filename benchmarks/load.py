"""Load from clients that each ask again when they were answered, over HTTP/1.1 kept alive or over gRPC.

The client is as cheap as Python allows, because it shares the cores with what it measures.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

WARM_UP_S = 1.0


class Figures(NamedTuple):
    """What one run shows; `p50_s` and `p99_s` are of the time to an answer."""

    per_second: float
    p50_s: float
    p99_s: float


class _Client(asyncio.Protocol):
    """One connection, on which the same request is sent again and again until the end."""

    def __init__(self, request: bytes, until_s: float, took_s: list[float], ended: asyncio.Future[None]) -> None:
        self._request, self._until_s, self._took_s, self._ended = request, until_s, took_s, ended
        self._held = bytearray()
        self._length = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._began_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        if self._length < 0:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._held[:end]).lower()
            if not head.startswith(b"http/1.1 200"):
                self._fail(f"the answer is {bytes(self._held[:500])!r}")
                return
            self._length = end + 4 + int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0])
        if len(self._held) < self._length:
            return
        self._held.clear()
        self._length = -1
        now_s = time.perf_counter()
        self._took_s.append(now_s - self._began_s)
        if now_s < self._until_s:
            self._send()
        else:
            self._transport.close()

    def _fail(self, reason: str) -> None:
        self._transport.abort()
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(reason))

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def http(port: int, path: str, body: bytes, headers: dict[str, str], clients: int, seconds: float) -> Figures:
    """POST the same body from so many clients for so long, after a warm-up.

    Raises `RuntimeError` unless all get 200.
    """
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
    loop = asyncio.get_running_loop()

    async def run(for_s: float) -> list[float]:
        took_s: list[float] = []
        until_s = time.perf_counter() + for_s
        ends = [loop.create_future() for _ in range(clients)]
        for end in ends:
            await loop.create_connection(lambda end=end: _Client(request, until_s, took_s, end), "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.gather(*ends)
        return took_s

    await run(WARM_UP_S)
    return _figures(await run(seconds), seconds)


async def calls(ask: Callable[[], Awaitable[object]], clients: int, seconds: float) -> Figures:
    """The same of any call."""

    async def run(for_s: float) -> list[float]:
        took_s: list[float] = []
        until_s = time.perf_counter() + for_s

        async def client() -> None:
            while (began_s := time.perf_counter()) < until_s:
                await ask()
                took_s.append(time.perf_counter() - began_s)

        await asyncio.gather(*(client() for _ in range(clients)))
        return took_s

    await run(WARM_UP_S)
    return _figures(await run(seconds), seconds)


def _figures(took_s: list[float], seconds: float) -> Figures:
    cuts = statistics.quantiles(took_s, n=100)
    return Figures(len(took_s) / seconds, cuts[49], cuts[98])
