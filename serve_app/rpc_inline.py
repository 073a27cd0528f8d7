"""`ModelInfer` of models inside the gateway, with less around it than Ray Serve has around every call.

Ray's way is a tenth of a small model's call. What Ray Serve does with calls is done here too: it counts those under way
(and waits for them before a replica ends), bounds them, and learns how each ended and what it took. For that it has no
public methods; where those of Ray Serve 2.60 are not there, calls go Ray's way.
See docs/adr/0024-grpc-calls-past-rays-wrapper.md.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from deployments.asgi import new_id
from deployments.protocols import open_inference_grpc
from deployments.protocols.open_inference_grpc import SERVICE
from serve_app.rpc import RpcRefused, code_of, head_in

SERVICERS = [f"{__name__}.add_services_to_server"]
"""What Ray Serve's gRPC servers are told to register (`grpc_options.grpc_servicer_functions`)."""
INFER = f"/{SERVICE}/ModelInfer"
NEEDED = ("_deployment_id", "_metrics_manager", "_record_errors_and_metrics", "_semaphore", "_user_callable_wrapper")
"""What is used of Ray Serve's replica."""
Handler = Callable[[bytes, Any], Awaitable[bytes]]


def add_services_to_server(servicer: object, server: Any) -> None:
    """Add what `open_inference_grpc` adds; `ModelInfer` as described above, if the server is a gateway's."""
    open_inference_grpc.add_services_to_server(servicer, server)
    replica: Any = getattr(getattr(server, "service_handler_factory", None), "__self__", None)
    if not all(hasattr(replica, name) for name in NEEDED):
        return  # one of Ray Serve's proxies, which have calls answered by replicas
    gateway = replica._user_callable_wrapper.user_callable
    if not hasattr(gateway, "hosts"):
        return  # a model's replica that is an application of its own
    for (handlers,) in server.generic_rpc_handlers:
        found = handlers._method_handlers
        if INFER in found:
            found[INFER] = found[INFER]._replace(unary_unary=_shortened(found[INFER].unary_unary, replica, gateway))


def _shortened(rays: Handler, replica: Any, gateway: Any) -> Handler:
    """Ray's handler, in whose place the gateway is asked where it hosts the model."""
    from ray.serve._private.common import RequestMetadata, RequestProtocol

    name = replica._deployment_id.app_name
    about = RequestMetadata(
        request_id="",
        internal_request_id="",
        call_method="ModelInfer",
        route=name,
        app_name=name,
        is_direct_ingress=True,
        _grpc_service_method=INFER,
        _request_protocol=RequestProtocol.GRPC,
    )

    async def infer(message: bytes, context: Any) -> bytes:
        asked, metadata = head_in(message), dict(context.invocation_metadata())
        if asked is None or not gateway.hosts(asked.model_name) or metadata.get("application", name) != name:
            return await rays(message, context)
        began_s = time.time()
        context.set_trailing_metadata((("request_id", metadata.get("request_id") or new_id()),))
        error: BaseException | None = None
        try:
            await replica._semaphore.acquire()
            replica._metrics_manager.inc_num_ongoing_requests(about)
            try:
                return bytes((await gateway.infer(asked, message, context)).body)
            finally:
                replica._metrics_manager.dec_num_ongoing_requests(about)
                replica._semaphore.release()
        except RpcRefused as refused:
            error = refused
            return b""
        except BaseException as failed:
            error = failed
            raise
        finally:
            ended = (error, _code(error), (time.time() - began_s) * 1000, about)
            asyncio.get_running_loop().call_soon(replica._record_errors_and_metrics, *ended)  # when the answer has left

    return infer


def _code(error: BaseException | None) -> str:
    """The name of gRPC's code for how a call ended."""
    if isinstance(error, RpcRefused):
        return str(code_of(error.status).name)
    return "OK" if error is None else "CANCELLED" if isinstance(error, asyncio.CancelledError) else "UNKNOWN"
