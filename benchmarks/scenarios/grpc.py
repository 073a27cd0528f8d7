"""The V2 request to an iris classifier as a gRPC call."""

from typing import Any

import grpc.aio

from benchmarks import load
from benchmarks.ceiling import ceiling
from benchmarks.classic import CLIENTS, ROWS, SECONDS, case, kserve, mlserver, prepare
from benchmarks.scenario import OURS, Figures, Scenario, Server, Side, Target
from benchmarks.serving import served
from deployments.protocols import open_inference_pb2 as pb


def request() -> Any:
    """Two rows of irises as a message."""
    contents = pb.InferTensorContents(fp64_contents=[value for row in ROWS for value in row])
    tensor = pb.ModelInferRequest.InferInputTensor(name="input-0", datatype="FP64", shape=[2, 4], contents=contents)
    return pb.ModelInferRequest(model_name="iris", inputs=[tensor])


async def over_grpc(port: int, clients: int, seconds: float = SECONDS) -> dict[str, float]:
    """Figures of so many calls at once over one channel."""
    asked = request()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        return await load.calls(lambda: call(asked), clients, seconds)


def measure(server: Server) -> Figures:
    """Figures by the number of clients, after `SETTLE_S` of one client."""
    load.run(over_grpc(server.grpc, 1, load.SETTLE_S))
    return {case("gRPC", count): load.run(over_grpc(server.grpc, count)) for count in CLIENTS}


SCENARIO = Scenario(
    name="grpc",
    about=(
        "The same V2 request as a gRPC call (`ModelInfer`). The client is grpc.aio, one channel; it takes more of the "
        "two cores than the servers do, so that the ratios are nearer to 1 than the servers are."
    ),
    sides=(
        Side(OURS, served, measure),
        Side("KServe", kserve, measure),
        Side("MLServer", mlserver, measure),
        ceiling(measure),
    ),
    targets=tuple(Target(case("gRPC", clients), "requests/s", "MLServer", least=1.0) for clients in (1, 32)),
    prepare=prepare,
)
