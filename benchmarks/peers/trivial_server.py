"""Answers every request at once with the same answer: what a client reaches when the server costs nothing.

`python trivial_server.py HTTP_PORT GRPC_PORT ANSWER_BYTES`. A path that ends in `/stream/N` is answered by N chunks,
5 ms apart. Whoever speaks gRPC gets the bytes that were sent.
"""

import asyncio
import sys
from typing import cast

import grpc
import uvloop

GAP_S = 0.005
ANSWER = b""


class Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._held, self._missing = bytearray(), 0
        self._path = b""

    def data_received(self, data: bytes) -> None:
        if self._missing > 0:
            self._missing -= len(data)
        else:
            self._held += data
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._held[:end])
            self._path = head.split(b" ", 2)[1]
            length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0] or 0)
            self._missing = end + 4 + length - len(self._held)
            self._held.clear()
        if self._missing <= 0:
            self._answer()

    def _answer(self) -> None:
        before, _, count = self._path.rpartition(b"/")
        if before.endswith(b"/stream"):
            self._task = asyncio.create_task(self._stream(int(count)))
        else:
            self._transport.write(ANSWER)

    async def _stream(self, count: int) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(count):
            self._transport.write(b"40\r\n" + b"x" * 64 + b"\r\n")
            await asyncio.sleep(GAP_S)
        self._transport.write(b"0\r\n\r\n")


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    def service(self, _details: object) -> grpc.RpcMethodHandler:
        async def answer(request: bytes, _context: object) -> bytes:
            return request

        return grpc.unary_unary_rpc_method_handler(answer)


async def main(http_port: int, grpc_port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Echo()])
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    await server.start()
    listening = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", http_port)
    await listening.serve_forever()


if __name__ == "__main__":
    size = int(sys.argv[3])
    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (size, b"x" * size)
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
