"""The calls of KServe's own clients, REST and gRPC, as docs/clients.md lists them."""

from collections.abc import Awaitable

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

from tests.peers.calls import Address, main

TEXTS = ["hello", "world"]
WIDTH = 384
BODY = {"instances": TEXTS}


def v1() -> InferenceRESTClient:
    return InferenceRESTClient(RESTConfig(protocol="v1"))


def v2() -> InferenceRESTClient:
    return InferenceRESTClient(RESTConfig(protocol="v2"))


def texts(binary: bool, outputs: list[RequestedOutput] | None = None) -> InferRequest:
    given = InferInput("input", [2], "BYTES")
    given.set_data_from_numpy(np.array([text.encode() for text in TEXTS], object), binary_data=binary)
    return InferRequest("embeddings", [given], request_id="mine", request_outputs=outputs)


def one(name: str, text: str) -> dict[str, object]:
    return {"inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [text]}]}


async def call_v1_health(address: Address) -> None:
    assert await v1().is_server_live(address.http) is True
    assert await v1().is_model_ready(address.http, "embeddings") is True
    assert await v1().is_model_ready(address.http, "broken") is False


async def call_v1_infer(address: Address) -> None:
    answer = await v1().infer(address.http, BODY, model_name="embeddings")
    assert np.shape(answer["predictions"]) == (2, WIDTH)


async def call_v1_infer_under_the_models_prefix(address: Address) -> None:
    answer = await v1().infer(f"{address.http}/embeddings", BODY, model_name="embeddings")
    assert np.shape(answer["predictions"]) == (2, WIDTH)


async def call_v1_infer_by_the_host_alias(address: Address) -> None:
    host = {"Host": "embeddings-predictor"}
    answer = await v1().infer(address.http, BODY, model_name="embeddings", headers=host)
    assert np.shape(answer["predictions"]) == (2, WIDTH)
    assert await _status(v1().infer(address.http, BODY, model_name="reranker", headers=host)) == 404


async def call_v1_infer_of_a_graph_endpoint(address: Address) -> None:
    answer = await v1().infer(f"{address.http}/v1/models/embeddings:predict", BODY, is_graph_endpoint=True)
    assert np.shape(answer["predictions"]) == (2, WIDTH)


async def call_v1_explain(address: Address) -> None:
    answer = await v1().explain(address.http, "fraud", {"instances": [[0.1, 0.2, 0.3, 0.4]]})
    assert answer["explanations"]
    assert await _status(v1().explain(address.http, "iris", {"instances": [[0.1, 0.2, 0.3, 0.4]]})) == 501


async def call_v2_health(address: Address) -> None:
    assert await v2().is_server_live(address.http) is True
    assert await v2().is_server_ready(address.http) is True
    assert await v2().is_model_ready(address.http, "tts") is True
    assert await v2().is_model_ready(address.http, "nobody") is False


async def call_v2_infer_in_json(address: Address) -> None:
    answer = await v2().infer(address.http, texts(binary=False), model_name="embeddings")
    assert answer.id == "mine"
    assert answer.outputs[0].as_numpy().shape == (2, WIDTH)


async def call_v2_infer_in_binary(address: Address) -> None:
    answer = await v2().infer(address.http, texts(binary=True), model_name="embeddings")
    assert answer.id == "mine"
    assert answer.outputs[0].as_numpy().shape == (2, WIDTH)


async def call_v2_infer_with_requested_outputs(address: Address) -> None:
    vectors = []
    for binary in (False, True):
        asked = [RequestedOutput("embeddings", parameters={"binary_data": binary})]
        answer = await v2().infer(address.http, texts(binary=True, outputs=asked), model_name="embeddings")
        vectors.append(answer.outputs[0].as_numpy())
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


async def call_v2_infer_of_a_dict(address: Address) -> None:
    answer = await v2().infer(address.http, one("input", "hello"), model_name="embeddings")
    assert answer.outputs[0].as_numpy().shape == (1, WIDTH)


async def call_v2_infer_of_an_llm(address: Address) -> None:
    answer = await v2().infer(address.http, one("text_input", "hello"), model_name="small-llm")
    assert answer.outputs[0].data[0]


async def call_v2_infer_of_speech(address: Address) -> None:
    answer = await v2().infer(address.http, one("text", "hello"), model_name="tts")
    assert answer.outputs[0].data[0]


async def call_v2_infer_of_a_table_of_numbers(address: Address) -> None:
    rows = InferInput("input", [2, 4], "FP32")
    rows.set_data_from_numpy(np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], np.float32))
    answer = await v2().infer(address.http, InferRequest("inline-iris", [rows]), model_name="inline-iris")
    assert answer.outputs[0].as_numpy().tolist() == [0, 2]


async def _status(call: Awaitable[object]) -> int | None:
    """The HTTP status that a call is refused with; None if it is not."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return None


async def _code(call: Awaitable[object]) -> grpc.StatusCode | None:
    """The code that a call ends with; None if it ends well."""
    try:
        await call
    except grpc.RpcError as error:
        return error.code()
    return None


async def call_grpc_health(address: Address) -> None:
    async with InferenceGRPCClient(address.grpc) as client:
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("small-llm") is True
        assert await client.is_model_ready("broken") is False
        assert await _code(client.is_model_ready("nobody")) == grpc.StatusCode.NOT_FOUND


async def call_grpc_infer_of_raw_contents(address: Address) -> None:
    async with InferenceGRPCClient(address.grpc) as client:
        answer = await client.infer(texts(binary=True), timeout=30)
    assert answer.id == "mine"
    assert answer.outputs[0].as_numpy().shape == (2, WIDTH)


async def call_grpc_infer_with_parameters(address: Address) -> None:
    text = InferInput("text_input", [1], "BYTES", [b"What is this?"])
    asked = InferRequest("small-llm", [text], parameters={"max_tokens": 3, "temperature": "0.0"})
    async with InferenceGRPCClient(address.grpc) as client:
        answer = await client.infer(asked)
    assert 0 < len(answer.outputs[0].as_numpy()[0].split()) <= 3


async def call_grpc_infer_of_typed_contents(address: Address) -> None:
    async with InferenceGRPCClient(address.grpc) as client:
        answer = await client.infer(texts(binary=False), headers=[("x-mine", "1")])
    assert answer.outputs[0].as_numpy().shape == (2, WIDTH)


if __name__ == "__main__":
    main(globals())
