"""The proto: the same on the wire as Triton's, beside it in one process, and as it was last made."""

import filecmp
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient import grpc as triton
from tritonclient.grpc import model_config_pb2, service_pb2

from deployments.protocols import open_inference_grpc as codec
from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols import open_inference_pb2_grpc as service
from deployments.protocols.open_inference import InferResponse

ROOT = Path(__file__).parent.parent.parent
KSERVES = {
    "RepositoryModelLoadResponse": {"model_name", "isLoaded"},
    "RepositoryModelUnloadResponse": {"model_name", "isUnloaded"},
}
"""Fields that KServe has where Triton has none."""


def messages(descriptors: Any) -> Iterator[Any]:
    for descriptor in descriptors:
        yield descriptor
        yield from messages(descriptor.nested_types)


OURS = list(messages(pb.DESCRIPTOR.message_types_by_name.values()))


@pytest.mark.parametrize("ours", OURS, ids=lambda one: str(one.full_name))
def test_every_field_is_tritons(ours: Any) -> None:
    theirs = service_pb2.DESCRIPTOR.pool.FindMessageTypeByName(ours.full_name)
    assert theirs.GetOptions().map_entry == ours.GetOptions().map_entry
    for field in ours.fields:
        if field.name in KSERVES.get(ours.name, ()):
            assert field.number not in theirs.fields_by_number
            continue
        same = theirs.fields_by_name[field.name]
        assert (same.number, same.type, same.is_repeated) == (field.number, field.type, field.is_repeated)
        assert (same.message_type or same).full_name == (field.message_type or field).full_name
        assert (same.enum_type and same.enum_type.full_name) == (field.enum_type and field.enum_type.full_name)
        assert (same.containing_oneof and same.containing_oneof.name) == (
            field.containing_oneof and field.containing_oneof.name
        )


def test_every_number_of_a_datatype_is_tritons() -> None:
    assert pb.DataType.items() == model_config_pb2.DataType.items()


def test_every_call_is_tritons() -> None:
    ours, theirs = (one.DESCRIPTOR.services_by_name["GRPCInferenceService"] for one in (pb, service_pb2))
    assert ours.full_name == theirs.full_name == codec.SERVICE
    for call in ours.methods:
        same = theirs.methods_by_name[call.name]
        assert (call.client_streaming, call.server_streaming) == (same.client_streaming, same.server_streaming)
        assert call.input_type.full_name == same.input_type.full_name
        assert call.output_type.full_name == same.output_type.full_name


def test_the_python_of_the_proto_is_as_it_is_made(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "scripts.make_proto", str(tmp_path)], check=True, cwd=ROOT)
    made = [file.name for file in tmp_path.iterdir()]
    assert len(made) == 3
    assert filecmp.cmpfiles(tmp_path, ROOT / "deployments" / "protocols", made, shallow=False) == (made, [], [])


@pytest.mark.slow
@pytest.mark.parametrize("order", ["{ours}; {theirs}", "{theirs}; {ours}"])
def test_it_lives_with_tritonclients_in_one_process(order: str) -> None:
    imports = order.format(
        ours="import deployments.protocols.open_inference_pb2_grpc", theirs="import tritonclient.grpc"
    )
    subprocess.run([sys.executable, "-c", imports], check=True, cwd=ROOT)


def test_a_message_survives_a_pickle_to_another_process() -> None:
    message = pb.ModelInferRequest(model_name="m", raw_input_contents=[b"\xff"])
    message.inputs.add(name="x", shape=[1], datatype="INT8").parameters["k"].int64_param = 3
    assert pickle.loads(pickle.dumps(message)) == message
    script = "import pickle, sys; sys.stdout.buffer.write(pickle.loads(sys.stdin.buffer.read()).SerializeToString())"
    run = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(message), stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    assert pb.ModelInferRequest.FromString(run.stdout) == message


class Echo(service.GRPCInferenceServiceServicer):
    """Answers each inference with its inputs."""

    def Check(self, request: object, context: object) -> None:  # noqa: N802
        raise NotImplementedError("health is asked nowhere here")

    Watch = List = Check

    def ModelInfer(self, request: bytes, context: object) -> pb.ModelInferResponse:  # noqa: N802
        asked = codec.read_proto(pb.ModelInferRequest.FromString(request))
        return codec.write_proto(InferResponse(asked.model_name, asked.inputs), asked)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: object) -> pb.ModelConfigResponse:  # noqa: N802
        tensor = {"name": "x", "data_type": pb.TYPE_BF16, "dims": [-1]}
        return pb.ModelConfigResponse(config={"name": request.name, "backend": "b", "input": [tensor]})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    codec.add_services_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_tritonclient_infers_over_the_wire(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        array = np.array([[b"a", "ä".encode()]], object)
        result = client.infer("m", [triton.InferInput("x", [1, 2], "BYTES").set_data_from_numpy(array)])
        assert result.as_numpy("x").tolist() == array.tolist()


def test_tritonclient_reads_a_models_config(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        config = client.get_model_config("m").config
    assert (config.name, config.backend, config.max_batch_size) == ("m", "b", 0)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [
        ("x", model_config_pb2.TYPE_BF16, [-1])
    ]


def test_reflection_shows_the_service_and_describes_it(address: str) -> None:
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=codec.SERVICE),
    ]
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, described = stub.ServerReflectionInfo(iter(asked))
    assert codec.SERVICE in [one.name for one in listed.list_services_response.service]
    assert described.file_descriptor_response.file_descriptor_proto == [pb.DESCRIPTOR.serialized_pb]


class RaysServer:
    """What Ray Serve's gRPC server has beside any other's calls."""

    def __init__(self) -> None:
        self.passed: set[str] = set()
        self.added: list[tuple[str, bool]] = []

    def add_passthrough_service(self, name: str) -> None:
        self.passed.add(name)

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        name = handlers[0].service_name()
        self.added.append((name, name in self.passed))

    def add_registered_method_handlers(self, name: str, handlers: object) -> None:
        assert name == self.added[-1][0]


def test_ray_serve_is_told_to_pass_reflection_over() -> None:
    server = RaysServer()
    codec.add_services_to_server(Echo(), server)
    assert server.added == [
        (codec.SERVICE, False),
        ("grpc.health.v1.Health", False),
        ("grpc.reflection.v1alpha.ServerReflection", True),
    ]
