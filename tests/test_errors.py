"""Every error crosses a process boundary whole, and reads as its dialect says."""

import pickle

import orjson
import pytest

from deployments import errors
from deployments.errors import BadRequest, ModelNotFound, QueueFull, ServeAppError
from deployments.protocols.dialects import render
from serve_app.catalog import CatalogError
from serve_app.machine import MachineError


def tree(cls: type[ServeAppError] = ServeAppError) -> list[type[ServeAppError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in tree(child))]


@pytest.mark.parametrize("cls", tree())
def test_every_error_survives_pickling(cls: type[ServeAppError]) -> None:
    back = pickle.loads(pickle.dumps(cls("what", param="p", retry_after_s=3)))
    assert (type(back), back.message, back.param, back.retry_after_s, str(back)) == (cls, "what", "p", 3, "what")


def test_codes_are_distinct() -> None:
    codes = [cls.code for cls in tree()]
    assert len(set(codes)) == len(codes)
    assert {CatalogError, MachineError} < set(tree())


def test_the_tree_in_the_docstring_names_every_error() -> None:
    ours = [cls.__name__ for cls in tree() if cls.__module__ == errors.__name__]
    assert all(name in (errors.__doc__ or "") for name in ours)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/m",
        "/v1/models/m:predict",
        "/v2",
        "/v2/models/m/infer",
        "/route/v2/health/ready",
        "/a/b/v1/models/m",
        "/graphs/g",
    ],
)
def test_kserve_paths_get_kserves_errors(path: str) -> None:
    status, _, body = render(ModelNotFound.named("nope", ["m"]), path)
    assert status == 404
    assert orjson.loads(body) == {"error": "Model with name nope does not exist. Models here: m."}


@pytest.mark.parametrize(
    "path",
    ["/v1/embeddings", "/v1/rerank", "/v2/rerank", "/r/v2/rerank", "/openai/v1/models/m", "/r/openai/v1/models/m"],
)
def test_other_paths_get_openais_envelope(path: str) -> None:
    _, _, body = render(BadRequest("bad", param="input"), path)
    assert orjson.loads(body) == {
        "error": {"message": "bad", "type": "invalid_request_error", "param": "input", "code": "invalid_request"}
    }


@pytest.mark.parametrize("path", ["/embed", "/rerank", "/route/rerank"])
def test_tei_paths_get_teis_errors(path: str) -> None:
    assert orjson.loads(render(BadRequest("bad"), path)[2]) == {"error": "bad", "error_type": "Validation"}


def test_retry_after_is_whole_seconds() -> None:
    _, headers, body = render(QueueFull("full", retry_after_s=0.2), "/v1/embeddings")
    assert dict(headers) == {
        b"content-type": b"application/json",
        b"retry-after": b"1",
        b"content-length": str(len(body)).encode(),
    }
