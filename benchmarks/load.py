"""Load from clients that each ask again when they were answered, over HTTP/1.1 kept alive or by any call.

`wrk` is used where it is installed. Otherwise the client is as cheap as Python allows, because it shares the cores
with what it measures; every scenario shows what it reaches against a server that does nothing.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import uvloop

from benchmarks.wrk import WRK, drive

WARM_UP_S = 0.7
SETTLE_S = 8.0
"""How long a side is asked before it is timed, where that shows: in its first seconds an application is slower."""
TIMEOUT_S = 120
Found = TypeVar("Found")


@dataclass(frozen=True)
class Request:
    """A POST, the same every time."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def client_name() -> str:
    """What sends unary HTTP requests here."""
    return "wrk" if WRK else "asyncio (uvloop)"


def run(work: Coroutine[Any, Any, Found]) -> Found:
    """The result of that coroutine on uvloop, which takes half of asyncio's CPU time."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def figures(took_s: list[float], seconds: float, unit: str = "requests/s") -> dict[str, float]:
    """Requests per second, and the median and 99th percentile of the time to an answer in ms."""
    if len(took_s) < 2:
        raise RuntimeError(f"only {len(took_s)} answers came within {seconds:.1f} s")
    cuts = statistics.quantiles(took_s, n=100, method="inclusive")
    return {unit: len(took_s) / seconds, "p50 ms": cuts[49] * 1000, "p99 ms": cuts[98] * 1000}


def http(port: int, request: Request, clients: int, seconds: float) -> dict[str, float]:
    """Ask from so many clients for so long, after a warm-up. Raises `RuntimeError` unless every answer is 200."""
    # Our own client waits for its last answers; wrk would leave requests behind that are still being cancelled.
    run(_clients(port, request, clients, WARM_UP_S))
    if WRK:
        url = f"http://127.0.0.1:{port}{request.path}"
        return drive(url, request.body, request.headers, clients, seconds, TIMEOUT_S)
    began_s = time.perf_counter()
    took_s = run(_clients(port, request, clients, seconds))
    return figures(took_s, time.perf_counter() - began_s)


def one_by_one(port: int, request: Request, seconds: float) -> dict[str, float]:
    """One client of our own for about so long, for bodies that `wrk` takes too much memory for."""
    run(_clients(port, request, 1, WARM_UP_S))
    return figures(run(_clients(port, request, 1, seconds)), seconds)


async def _clients(port: int, request: Request, clients: int, seconds: float) -> list[float]:
    took_s: list[float] = []
    until_s = time.perf_counter() + seconds
    await asyncio.gather(*(_Client(port, request.encoded(), until_s, took_s).run() for _ in range(clients)))
    return took_s


class _Client(asyncio.Protocol):
    """One client, who sends the same request again and again until the end, on one connection where it is kept."""

    def __init__(self, port: int, request: bytes, until_s: float, took_s: list[float]) -> None:
        self._port, self._request, self._until_s, self._took_s = port, request, until_s, took_s
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held = bytearray()
        self._length, self._closes = -1, False

    async def run(self) -> None:
        """Connect, and again where the server says that it closes, as HAProxy does when it is set up anew."""
        while True:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
            await self._ended
            if time.perf_counter() >= self._until_s:
                return
            self._ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._held.clear()
        self._length, self._closes = -1, False
        self._send()

    def _send(self) -> None:
        self._began_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._held += data
        if self._length < 0 and not self._read_head():
            return
        if len(self._held) < self._length:
            return
        self._held.clear()
        self._length = -1
        now_s = time.perf_counter()
        self._took_s.append(now_s - self._began_s)
        if now_s < self._until_s and not self._closes:
            self._send()
        else:
            self._transport.close()
            self._end()

    def _read_head(self) -> bool:
        end = self._held.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._held[:end]).lower()
        if not head.startswith(b"http/1.1 200"):
            self._transport.abort()
            self._end(f"the answer is {bytes(self._held[:500])!r}")
            return False
        self._closes = b"\r\nconnection: close" in head
        self._length = end + 4 + int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0])
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"the connection was closed with {len(self._held)} bytes of an answer read: {error}")

    def _end(self, problem: str = "") -> None:
        if self._ended.done():
            return
        if problem:
            self._ended.set_exception(RuntimeError(problem))
        else:
            self._ended.set_result(None)


@dataclass
class Streamed:
    """What one stream took: seconds to its first piece and to its end, and the bytes of the body."""

    first_s: float
    whole_s: float
    size: int


async def streams(port: int, request: Request, clients: int, count: int) -> tuple[list[Streamed], float]:
    """`count` answers in chunks, from so many clients at once; and the seconds that all took together."""
    found: list[Streamed] = []
    left = count
    data = request.encoded()

    async def client() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while left > 0:
                left -= 1
                writer.write(data)
                found.append(await _one_stream(reader))
        finally:
            writer.close()

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return found, time.perf_counter() - began_s


async def _one_stream(reader: asyncio.StreamReader) -> Streamed:
    began_s = time.perf_counter()
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the answer is {head!r}")
    first_s, size, last = 0.0, 0, b""
    while not last.endswith(b"0\r\n\r\n"):
        data = await reader.read(1 << 16)
        if not data:
            raise RuntimeError("the stream broke off")
        first_s = first_s or time.perf_counter() - began_s
        size += len(data)
        last = (last + data)[-5:]
    return Streamed(first_s, time.perf_counter() - began_s, size)


async def calls(ask: Callable[[], Awaitable[object]], clients: int, seconds: float) -> dict[str, float]:
    """The figures of any call, asked from so many clients for so long, after a warm-up."""

    async def run_for(for_s: float) -> list[float]:
        took_s: list[float] = []
        until_s = time.perf_counter() + for_s

        async def client() -> None:
            while (began_s := time.perf_counter()) < until_s:
                await ask()
                took_s.append(time.perf_counter() - began_s)

        await asyncio.gather(*(client() for _ in range(clients)))
        return took_s

    await run_for(WARM_UP_S)
    began_s = time.perf_counter()
    return figures(await run_for(seconds), time.perf_counter() - began_s)


async def post(port: int, request: Request) -> bytes:
    """The body of one answer, over a connection of its own. Raises `RuntimeError` unless it is 200."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encoded())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"the answer is {head!r} {await reader.read(500)!r}")
        length = head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0]
        return await (reader.readexactly(int(length)) if length else _chunked(reader))
    finally:
        writer.close()


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    """A body that comes in chunks."""
    pieces: list[bytes] = []
    while size := int(await reader.readline(), 16):
        pieces.append((await reader.readexactly(size + 2))[:-2])
    return b"".join(pieces)
