"""Inputs as Triton's clients take them, and a stream of its gRPC client."""

import queue
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc


def made(form: Any, tensors: dict[str, list[str | bytes]], **options: Any) -> list[Any]:
    """Inputs of `form`, tritonclient's gRPC or HTTP."""
    inputs = []
    for name, values in tensors.items():
        array = np.array([one.encode() if isinstance(one, str) else one for one in values], object)
        inputs.append(form.InferInput(name, list(array.shape), "BYTES").set_data_from_numpy(array, **options))
    return inputs


def texts(form: Any, *values: str, name: str = "input") -> list[Any]:
    return made(form, {name: [*values]})


class Stream:
    """A stream of tritonclient's, and what came of it."""

    def __init__(self, url: str) -> None:
        self.client = over_grpc.InferenceServerClient(url)
        self.came: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self.came.put((result, error)))

    def ask(self, model: str, prompt: str, request_id: str, parameters: dict[str, Any], **more: Any) -> None:
        inputs = texts(over_grpc, prompt, name="text_input")
        self.client.async_stream_infer(model, inputs, request_id=request_id, parameters=parameters, **more)

    def next(self) -> tuple[str, str, bool | None]:
        """The request's id, a piece of its text or what went wrong, and whether it said that it is the last."""
        result, error = self.came.get(timeout=60)
        if error:
            return "", str(error), None
        response, found = result.get_response(), result.as_numpy("text_output")
        last = response.parameters.get("triton_final_response")
        return response.id, "" if found is None else found[0].decode(), last.bool_param if last else None

    def rest(self) -> list[tuple[str, str, bool | None]]:
        """All up to the one that said so, or that went wrong."""
        found = [self.next()]
        while found[-1][2] is False:
            found.append(self.next())
        return found
