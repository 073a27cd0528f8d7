"""MLServer's codecs and types over REST, and its gRPC stub and converters, as docs/clients.md lists them."""

import base64
import json
import urllib.request

import grpc
import numpy as np
from mlserver.codecs import Base64Codec, NumpyCodec, NumpyRequestCodec, StringCodec, StringRequestCodec
from mlserver.grpc import converters, dataplane_pb2, dataplane_pb2_grpc
from mlserver.types import InferenceRequest, InferenceResponse, MetadataModelResponse, MetadataServerResponse

from tests.peers.calls import Address, main

WIDTH = 384
MODELS = ("embeddings", "reranker", "whisper", "tts", "small-llm", "iris")
ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])


def get(address: Address, path: str) -> bytes:
    with urllib.request.urlopen(address.http + path, timeout=30) as answer:
        read: bytes = answer.read()
    return read


def post(address: Address, path: str, body: bytes) -> bytes:
    asked = urllib.request.Request(address.http + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        read: bytes = answer.read()
    return read


def infer(address: Address, model: str, request: InferenceRequest) -> InferenceResponse:
    body = request.model_dump_json(exclude_none=True).encode()
    return InferenceResponse.model_validate_json(post(address, f"/v2/models/{model}/infer", body))


def texts() -> InferenceRequest:
    return InferenceRequest(id="mine", inputs=[StringCodec.encode_input("input", ["hello", "world"])])


def stub(address: Address) -> dataplane_pb2_grpc.GRPCInferenceServiceStub:
    return dataplane_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(address.grpc))


def call_metadata_types(address: Address) -> None:
    assert MetadataServerResponse.model_validate_json(get(address, "/v2")).name
    for model in MODELS:
        assert MetadataModelResponse.model_validate_json(get(address, f"/v2/models/{model}")).name == model


def call_string_codec(address: Address) -> None:
    answer = infer(address, "embeddings", texts())
    assert answer.id == "mine"
    assert NumpyCodec.decode_output(answer.outputs[0]).shape == (2, WIDTH)
    said = infer(address, "small-llm", InferenceRequest(inputs=[StringCodec.encode_input("text_input", ["hello"])]))
    assert StringCodec.decode_output(said.outputs[0])[0]


def call_string_request_codec(address: Address) -> None:
    request = StringRequestCodec.encode_request(["hello", "world"])
    request.inputs[0].name = "input"  # it says input-1
    answer = infer(address, "embeddings", request)
    assert NumpyCodec.decode_output(answer.outputs[0]).shape == (2, WIDTH)


def call_base64_codec(address: Address) -> None:
    spoken = infer(address, "tts", InferenceRequest(inputs=[StringCodec.encode_input("text", ["What time is it?"])]))
    audio = Base64Codec.decode_output(spoken.outputs[0])
    assert audio[0][:4] == b"RIFF"
    heard = infer(address, "whisper", InferenceRequest(inputs=[Base64Codec.encode_input("audio", audio)]))
    v1 = json.dumps({"instances": [{"b64": base64.b64encode(audio[0]).decode()}]}).encode()
    by_v1 = json.loads(post(address, "/v1/models/whisper:predict", v1))
    assert StringCodec.decode_output(heard.outputs[0]) == by_v1["predictions"] != [""]


def call_numpy_codec(address: Address) -> None:
    for model in ("iris", "inline-iris"):
        request = InferenceRequest(inputs=[NumpyCodec.encode_input("input", ROWS)])
        assert NumpyCodec.decode_output(infer(address, model, request).outputs[0]).reshape(-1).tolist() == [0, 2]


def call_numpy_request_codec(address: Address) -> None:
    request = NumpyRequestCodec.encode_request(ROWS)
    request.inputs[0].name = "input"  # it says input-1
    assert NumpyRequestCodec.decode_response(infer(address, "iris", request)).reshape(-1).tolist() == [0, 2]


def call_grpc_health_and_metadata(address: Address) -> None:
    asked = stub(address)
    assert asked.ServerLive(dataplane_pb2.ServerLiveRequest()).live
    assert asked.ServerReady(dataplane_pb2.ServerReadyRequest()).ready
    assert asked.ModelReady(dataplane_pb2.ModelReadyRequest(name="small-llm")).ready
    assert asked.ServerMetadata(dataplane_pb2.ServerMetadataRequest()).name
    assert asked.ModelMetadata(dataplane_pb2.ModelMetadataRequest(name="tts")).name == "tts"


def call_metadata_of_audio(address: Address) -> None:
    told = MetadataModelResponse.model_validate_json(get(address, "/v2/models/whisper"))
    assert [(one.name, one.datatype) for one in told.inputs or []] == [("audio", "BYTES")]


def call_grpc_infer(address: Address) -> None:
    for raw in (False, True):
        message = converters.ModelInferRequestConverter.from_types(texts(), model_name="embeddings", use_raw=raw)
        answer = converters.ModelInferResponseConverter.to_types(stub(address).ModelInfer(message))
        assert answer.id == "mine"
        assert NumpyCodec.decode_output(answer.outputs[0]).shape == (2, WIDTH)


if __name__ == "__main__":
    main(globals())
