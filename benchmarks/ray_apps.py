"""Ray Serve without this project: applications of a few lines, as its users would write them first.

`python -m benchmarks.ray_apps NAME HTTP_PORT` serves one of them until it is ended.
"""

import asyncio
import contextlib
import functools
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

from benchmarks.processes import running
from benchmarks.scenario import Server
from serve_app import environment, instance, machine

STREAM = "/stream/"
GAP_S = 0.005
PIECE = b"x" * 64


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app: gives back the body; at `/stream/N` N pieces, 5 ms apart."""
    if scope["type"] != "http":
        return
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    _, found, count = scope["path"].rpartition(STREAM)
    if found:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(int(count)):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await asyncio.sleep(GAP_S)
        await send({"type": "http.response.body", "body": b""})
        return
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": bytes(body)})


def bare() -> Any:
    """An ingress that hands the body to a child and its answer back: no routes, no ASGI between them."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse

    @serve.deployment(max_ongoing_requests=1024, logging_config={"enable_access_log": False})
    class Child:
        async def __call__(self, body: bytes) -> bytes:
            return body

        async def stream(self, count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield PIECE
                await asyncio.sleep(GAP_S)

    @serve.deployment(max_ongoing_requests=1024, logging_config={"enable_access_log": False})
    class Ingress:
        def __init__(self, child: Any) -> None:
            self._child = child

        async def __call__(self, request: Request) -> Response:
            body = await request.body()
            _, found, count = request.url.path.rpartition(STREAM)
            if found:
                return StreamingResponse(self._child.options(stream=True).stream.remote(int(count)))
            return Response(await self._child.remote(body))

    ingress, child = cast(Any, Ingress), cast(Any, Child)  # Ray's decorator is untyped
    return ingress.bind(child.bind())


def iris() -> Any:
    """A FastAPI ingress and a child with the classifier, all settings as Ray Serve has them."""
    from fastapi import FastAPI, Request
    from ray import serve

    app = FastAPI()

    @serve.deployment
    class Classifier:
        def __init__(self) -> None:
            from sklearn.datasets import load_iris
            from sklearn.linear_model import LogisticRegression

            self._model = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))

        def predict(self, rows: list[list[float]]) -> list[int]:
            found: list[int] = self._model.predict(rows).tolist()
            return found

    @serve.deployment
    @serve.ingress(app)
    class Ingress:
        def __init__(self, child: Any) -> None:
            self._child = child

        @app.post("/v1/models/iris:predict")
        async def v1(self, request: Request) -> dict[str, Any]:
            given = await request.json()
            return {"predictions": await self._child.predict.remote(given["instances"])}

        @app.post("/v2/models/iris/infer")
        async def v2(self, request: Request) -> dict[str, Any]:
            (tensor,) = (await request.json())["inputs"]
            count, width = tensor["shape"]
            rows = [tensor["data"][at * width : (at + 1) * width] for at in range(count)]
            found = await self._child.predict.remote(rows)
            output = {"name": "output-0", "shape": [count], "datatype": "INT64", "data": found}
            return {"model_name": "iris", "outputs": [output]}

    ingress, child = cast(Any, Ingress), cast(Any, Classifier)
    return ingress.bind(child.bind())


@contextlib.contextmanager
def serving(name: str, tuned: bool, folder: Path) -> Iterator[Server]:
    """That application on a Ray of its own, `tuned` with the flags that `serve-app up` sets, else as Ray comes."""
    server = Server(folder, machine.free_port())
    session, token = uuid.uuid4().hex, uuid.uuid4().hex
    made = Path(tempfile.mkdtemp(prefix="sab-"))  # short: HAProxy's socket may have a path of 97 letters
    variables = environment.for_ray(session, token, str(made), machine.free_block(environment.PORTS))
    if not tuned:
        flags = environment.serving(environment.has_haproxy())
        variables = {key: value for key, value in variables.items() if key not in flags}
        variables = {key: value for key, value in variables.items() if not key.startswith("RAY_SERVE_")}
    ready = made / "ready"
    command = [sys.executable, "-m", "benchmarks.ray_apps", name, str(server.http), str(ready)]
    try:
        with running(command, ready.exists, folder / f"ray-{name}.log", variables):
            yield server
    finally:
        instance.sweep(session)
        shutil.rmtree(made, ignore_errors=True)


def tuned(name: str) -> Any:
    """`serving` with our flags, as a side's start."""
    return functools.partial(serving, name, True)


def plain(name: str) -> Any:
    """`serving` as Ray comes, as a side's start."""
    return functools.partial(serving, name, False)


def main(name: str, port: int, ready: Path) -> None:
    """Serve until SIGTERM; `ready` is made when requests are answered."""
    import ray
    from ray import serve

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ray.init(num_cpus=machine.cpus(), include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run({"bare": bare, "iris": iris}[name]())
    ready.touch()
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
