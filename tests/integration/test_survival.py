"""Nothing that was accepted is lost: replicas killed, versions that cannot load, a model repaired."""

import copy
import os
import signal
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.integration.applications import Application
from tests.integration.loads import enough, load

def embedding(url: str) -> Callable[[httpx.Client, str], httpx.Response]:
    """A request for embeddings of a text and another."""

    def ask(client: httpx.Client, text: str) -> httpx.Response:
        body = {"model": "embeddings", "input": [text, "another text"], "dimensions": 4}
        return client.post(f"{url}/v1/embeddings", json=body)

    return ask


@pytest.mark.parametrize("victims", [1, 2], ids=["one of two", "both of two"])
def test_no_request_is_lost_when_replicas_are_killed(application: Application, victims: int) -> None:
    application.until(lambda: len(application.replicas("embeddings")) == 2)
    before = {process.pid for process in application.replicas("embeddings")}
    with load(embedding(application.url)) as seen:
        enough(seen, 100)
        for pid in list(before)[:victims]:
            os.kill(pid, signal.SIGKILL)
        enough(seen, 200)
    assert set(seen) == {200}, seen
    application.until(lambda: len({p.pid for p in application.replicas("embeddings")} - before) >= victims)
    application.until(lambda: application.state("embeddings")["state"] == "ready")


def test_a_version_that_cannot_load_never_interrupts_the_old_one(
    application: Application, catalog: dict[str, Any]
) -> None:
    before = {process.pid for process in application.replicas("embeddings")}
    changed = copy.deepcopy(catalog)
    changed["models"][0]["source"] = "file:///nowhere"
    with load(embedding(application.url)) as seen:
        enough(seen, 50)
        application.deploy(changed)
        application.until(lambda: "nowhere" in application.state("embeddings").get("reason", ""))
        enough(seen, 100)
        ready = httpx.get(f"{application.url}/v2/models/embeddings/ready")
        assert ready.status_code == 200
        assert "/nowhere" in ready.json()["reason"]
        application.deploy(catalog)
        application.until(lambda: "reason" not in application.state("embeddings"))
        enough(seen, 50)
    assert set(seen) == {200}, seen
    assert {process.pid for process in application.replicas("embeddings")} == before


def test_changed_options_take_over_without_a_gap(application: Application, catalog: dict[str, Any]) -> None:
    changed = copy.deepcopy(catalog)
    changed["models"][0]["options"] = {"prompts": {"extra": "say: "}, "default_prompt": "extra"}

    def version(answer: httpx.Response) -> object:
        return (
            (answer.status_code, answer.json()["usage"]["prompt_tokens"]) if answer.status_code == 200 else answer.text
        )

    with load(embedding(application.url), version) as seen:
        enough(seen, 50)
        old = set(seen)
        application.deploy(changed)
        application.until(lambda: set(seen) - old)
        enough(seen, 100)
        application.deploy(catalog)
        enough(seen, 50)
    assert all(isinstance(one, tuple) and one[0] == 200 for one in seen), seen


def test_a_repaired_model_comes_up_without_touching_another_process(
    application: Application, catalog: dict[str, Any]
) -> None:
    names = ["embeddings", "ids", "reranker", "cross", "broken", "gateway"]
    before = {name: {process.pid for process in application.replicas(name)} for name in names}
    repaired = copy.deepcopy(catalog)
    broken = next(model for model in repaired["models"] if model["name"] == "broken")
    broken["source"] = catalog["models"][0]["source"]
    application.deploy(repaired)
    application.until(lambda: application.state("broken")["state"] == "ready")
    asked = httpx.post(f"{application.url}/v1/embeddings", json={"model": "broken", "input": "x"}, timeout=60)
    assert asked.status_code == 200
    assert {name: {process.pid for process in application.replicas(name)} for name in names} == before
    application.deploy(catalog)


def test_aliases_and_limits_change_in_place(application: Application, catalog: dict[str, Any]) -> None:
    changed = copy.deepcopy(catalog)
    changed["models"][0]["aliases"] = ["renamed"]
    changed["models"][0]["limits"] = {"max_inputs": 2}
    changed["gateway"] = {"max_body": "1KiB"}
    before = {process.pid for name in ("embeddings", "gateway") for process in application.replicas(name)}
    ask = {"model": "renamed", "input": ["a", "b", "c"]}
    application.deploy(changed)
    application.until(lambda: httpx.post(f"{application.url}/v1/embeddings", json=ask).status_code == 400)
    large = httpx.post(f"{application.url}/v1/embeddings", content=b" " * 2000)
    assert large.status_code == 413
    application.deploy(catalog)
    application.until(lambda: httpx.post(f"{application.url}/v1/embeddings", json=ask).status_code == 404)
    assert {process.pid for name in ("embeddings", "gateway") for process in application.replicas(name)} == before
