"""`ModelInfer` past Ray Serve's wrapper, on Ray's own kind of gRPC server; what stands for its replica records."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from ray.serve._private.grpc_util import gRPCGenericServer

from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.open_inference_pb2_grpc import GRPCInferenceServiceStub
from serve_app.rpc import RpcRefused, Written
from serve_app.rpc_inline import NEEDED, add_services_to_server


class Gateway:
    """Hosts `here`, and does with a call what its id says."""

    def hosts(self, name: str) -> bool:
        return name == "here"

    async def infer(self, asked: pb.ModelInferRequest, message: bytes, context: Any) -> Written:
        assert asked == pb.ModelInferRequest.FromString(message)
        if asked.id == "slow":
            await asyncio.sleep(60)
        if asked.id == "wrong":
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such thing")
            raise RpcRefused("no such thing", 404)
        if asked.id == "bug":
            raise KeyError(asked.id)
        return Written(pb.ModelInferResponse(model_name="short", id=asked.id).SerializeToString())


class Replica:
    """The part of Ray Serve's replica that is used, and its handler of every call."""

    def __init__(self) -> None:
        self.under_way = self.most = 0
        self.ended: list[tuple[str, type | None]] = []
        self._deployment_id = SimpleNamespace(app_name="stack")
        self._user_callable_wrapper = SimpleNamespace(user_callable=Gateway())
        self._semaphore = asyncio.Semaphore(2)
        self._metrics_manager = SimpleNamespace(
            inc_num_ongoing_requests=lambda _: self._count(1), dec_num_ongoing_requests=lambda _: self._count(-1)
        )

    def _count(self, more: int) -> None:
        self.under_way += more
        self.most = max(self.most, self.under_way)

    def _record_errors_and_metrics(self, error: BaseException | None, code: str, took_ms: float, about: Any) -> None:
        assert took_ms >= 0
        assert (about.route, about.call_method, about.is_grpc_request) == ("stack", "ModelInfer", True)
        self.ended.append((code, type(error) if error else None))

    def handler(self, service_method: str, streaming_type: Any) -> Callable[..., Any]:
        async def answer(message: bytes, context: Any) -> bytes:
            return bytes(pb.ModelInferResponse(model_name="Ray's").SerializeToString())

        return answer


@pytest.fixture
async def replica() -> Replica:
    return Replica()


@contextlib.asynccontextmanager
async def serving(replica: Replica) -> AsyncIterator[Callable[..., Any]]:
    """How to call it by gRPC; the options are the client's."""
    server = gRPCGenericServer(replica.handler)
    add_services_to_server(Mock(), server)  # as Ray Serve does, which puts its own handlers in place of the servicer's
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]

        def ask(name: str = "here", says: str = "", **options: Any) -> Any:
            return stub.ModelInfer(pb.ModelInferRequest(model_name=name, id=says), **options)

        yield ask
    await server.stop(None)


@pytest.fixture
async def ask(replica: Replica) -> AsyncIterator[Callable[..., Any]]:
    async with serving(replica) as ask:
        yield ask


async def test_a_call_is_counted_while_it_is_under_way_and_told_when_it_has_ended(replica: Replica, ask: Any) -> None:
    call = ask(metadata=[("request_id", "mine")])
    assert (await call).model_name == "short"
    assert ("request_id", "mine") in list(await call.trailing_metadata())
    assert (replica.under_way, replica.most, replica.ended) == (0, 1, [("OK", None)])


async def test_a_refused_call_has_its_code_and_is_told_as_an_error(replica: Replica, ask: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="no such thing") as refused:
        await ask(says="wrong")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(says="bug")
    assert (replica.under_way, replica.ended) == (0, [("NOT_FOUND", RpcRefused), ("UNKNOWN", KeyError)])


async def test_no_more_than_are_let_in_are_worked_on_and_who_hangs_up_makes_room(replica: Replica, ask: Any) -> None:
    slow = [ask(says="slow") for _ in range(3)]
    while replica.under_way < 2:
        await asyncio.sleep(0.01)
    for call in slow:
        call.cancel()
    assert (await ask()).model_name == "short"
    assert (replica.under_way, replica.most) == (0, 2)
    assert sorted(code for code, _ in replica.ended) == ["CANCELLED"] * 3 + ["OK"]


@pytest.mark.parametrize(("name", "metadata"), [("elsewhere", []), ("here", [("application", "another")])])
async def test_other_calls_go_rays_way(replica: Replica, ask: Any, name: str, metadata: list[tuple[str, str]]) -> None:
    assert (await ask(name, metadata=metadata)).model_name == "Ray's"
    assert replica.ended == []


@pytest.mark.parametrize("missing", NEEDED)
async def test_all_calls_go_rays_way_where_its_replica_is_another(missing: str) -> None:
    class Other(Replica):
        def __getattribute__(self, name: str) -> Any:
            if name == missing:
                raise AttributeError(name)
            return super().__getattribute__(name)

    async with serving(Other()) as ask:
        assert (await ask()).model_name == "Ray's"


async def test_a_models_own_application_hosts_nothing_else(replica: Replica) -> None:
    replica._user_callable_wrapper = SimpleNamespace(user_callable=object())
    async with serving(replica) as ask:
        assert (await ask()).model_name == "Ray's"
