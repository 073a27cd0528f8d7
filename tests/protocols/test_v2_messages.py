"""gRPC's messages as bodies of V2's routes, as the gateway's gRPC methods send them, and streams of them."""

from typing import Any

import pytest

from deployments.protocols import open_inference_pb2 as pb
from deployments.protocols.open_inference_grpc import split_frames
from deployments.protocols.v2 import PROTOBUF
from tests.protocols.engines import Generate, ask
from tests.protocols.fakes import Served
from tests.protocols.inferences import INFER, echo

STREAM = "/v2/models/m/infer_stream"


def message(name: str, *values: bytes, **parameters: Any) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="m", id="7")
    made.inputs.add(name=name, datatype="BYTES", shape=[len(values)]).contents.bytes_contents.extend(values)
    for key, value in parameters.items():
        setattr(made.parameters[key], f"{'bool' if value is True else 'int64'}_param", value)
    return made


async def test_a_message_of_grpc_as_the_body() -> None:
    content = message("text_input", b"a b c", max_tokens=2).SerializeToString()
    answer = await ask(Served(Generate(), "generate"), INFER, content=content, headers={"content-type": PROTOBUF})
    assert answer.headers["content-type"] == PROTOBUF
    made = pb.ModelInferResponse.FromString(answer.content)
    assert (made.model_name, made.model_version, made.id) == ("m", "1", "7")
    assert list(made.outputs[0].contents.bytes_contents) == [b"ab"]


@pytest.mark.parametrize("path", [INFER, STREAM])
async def test_a_body_that_is_no_message_is_a_400(path: str) -> None:
    for content in (b"\xff\xff\xff", b'{"inputs": []}', b""):
        answer = await ask(echo(), path, content=content, headers={"content-type": PROTOBUF})
        assert (answer.status_code, set(answer.json())) == (400, {"error"})


async def streamed(given: pb.ModelInferRequest) -> list[pb.ModelStreamInferResponse]:
    served = Served(Generate(), "generate")
    answer = await ask(served, STREAM, content=given.SerializeToString(), headers={"content-type": PROTOBUF})
    assert answer.status_code == 200, answer.text
    assert served.loaded().open == 0

    async def nothing() -> Any:
        return
        yield

    return [pb.ModelStreamInferResponse.FromString(one) async for one in split_frames(answer.content, nothing())]


async def test_a_stream_has_an_answer_for_each_piece() -> None:
    found = [one.infer_response for one in await streamed(message("text_input", b"a b"))]
    assert [one.outputs[0].contents.bytes_contents[0] for one in found] == [b"a", b"b"]
    assert {one.id for one in found} == {"7"}


async def test_a_stream_says_which_answer_is_its_last_where_that_is_asked_for() -> None:
    found = await streamed(message("text_input", b"a b", triton_enable_empty_final_response=True))
    last = [one.infer_response.parameters["triton_final_response"].bool_param for one in found]
    assert last == [False, False, True]
    assert not found[-1].infer_response.outputs


async def test_an_error_in_a_stream_is_its_last_answer_and_says_of_which_request() -> None:
    *first, last = await streamed(message("text_input", b"a FAIL b"))
    assert len(first) == 1
    assert last.error_message == "the model failed on this input"
    assert last.infer_response.id == "7"


async def test_a_streams_time_is_the_models() -> None:
    served = Served(Generate(), "generate")
    await ask(served, STREAM, content=message("text_input", b"a b").SerializeToString())
    (stats,) = (await ask(served, "/v2/models/m/stats", "GET")).json()["model_stats"]
    times = {kind: one["ns"] for kind, one in stats["inference_stats"].items()}
    assert times["success"] >= times["compute_infer"] > 0
    assert times["compute_input"] >= 0


async def test_what_is_wrong_from_the_start_of_a_stream_has_its_status() -> None:
    for given in (message("text_input", b""), message("text_input", b"a", b"b"), message("text", b"a")):
        served = Served(Generate(), "generate")
        answer = await ask(served, STREAM, content=given.SerializeToString())
        assert answer.status_code == 400
