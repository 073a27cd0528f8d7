"""What has no place in a running Ray and why, of answers in the shape that Ray 2.60 gives."""

from typing import Any

import pytest

from rayservice.placement import unplaced
from tests.rayservice.catalogs import NVIDIA, catalog, model

OF = catalog(model("a"), model("b"), pools=[NVIDIA])
WAITING = {"state": "STARTING", "actor_name": "SERVE_REPLICA::stack#b#x", "replica_id": "x"}


def node(**given: Any) -> dict[str, Any]:
    total = {"CPU": 2.0, "GPU": 1.0, "memory": 2.0**31, "node:10.0.0.1": 1.0}
    known = {"node_id": "n1", "node_ip": "10.0.0.1", "is_head_node": False, "state": "ALIVE", "labels": {"pool": "gpu"}}
    return {**known, "resources_total": total, **given}


def deployment(gpu: float, *replicas: dict[str, Any], pool: str | None = "gpu", memory: float = 0) -> dict[str, Any]:
    actor = {"num_cpus": 0.5, "num_gpus": gpu} | ({"label_selector": {"pool": pool}} if pool else {})
    asked = {"CPU": 0.5, "GPU": gpu} | ({"memory": memory} if memory else {})
    return {
        "deployment_config": {"ray_actor_options": actor},
        "required_resources": asked,
        "target_num_replicas": len(replicas),
        "replicas": list(replicas),
    }


def running(node_id: str = "n1") -> dict[str, Any]:
    return {"state": "RUNNING", "node_id": node_id}


def why(nodes: list[dict[str, Any]], **deployments: dict[str, Any]) -> dict[str, str]:
    return unplaced({"stack": {"deployments": deployments}}, nodes, OF)


def test_where_all_have_a_place_nothing_is_said() -> None:
    assert why([node()], a=deployment(0.5, running()), b=deployment(0.5, running())) == {}


ASKED = "1 of 1 replicas has no place: each asks for 0.7 GPU, 0.5 CPU on pool gpu"
NO_ROOM = [
    ("a share beside another", [node()], f"{ASKED}; 10.0.0.1 has 0.5 of 1 GPU, 1.5 of 2 CPU free"),
    ("no machine", [], f"{ASKED}, of which no machine is up; the catalog says 1"),
    ("a machine that died", [node(state="DEAD")], f"{ASKED}, of which no machine is up; the catalog says 1"),
    ("another pool's machine", [node(labels={"pool": "x"})], f"{ASKED}, of which no machine is up; the catalog says 1"),
    (
        "the head, where nothing is served",
        [node(is_head_node=True, resources_total={"GPU": 1.0})],
        f"{ASKED}, of which no machine is up; the catalog says 1",
    ),
    (
        "a head that is the only machine",
        [node(is_head_node=True)],
        f"{ASKED}; 10.0.0.1 has 0.5 of 1 GPU, 1.5 of 2 CPU free",
    ),
    (
        "a second machine, about to take it",
        [node(), node(node_id="n2", node_ip="10.0.0.2")],
        f"{ASKED}; 10.0.0.1 has 0.5 of 1 GPU, 1.5 of 2 CPU free; 10.0.0.2 has 1 of 1 GPU, 2 of 2 CPU free: Ray is "
        "about to place it, or what is free is in parts of several GPUs",
    ),
    (
        "a machine without its GPU",
        [node(resources_total={"CPU": 2.0})],
        f"{ASKED}; 10.0.0.1 has 0 of 0 GPU, 1.5 of 2 CPU free; the catalog says 1 GPUs",
    ),
]


@pytest.mark.parametrize(("nodes", "said"), [case[1:] for case in NO_ROOM], ids=[case[0] for case in NO_ROOM])
def test_what_is_asked_and_what_is_free_is_said(nodes: list[dict[str, Any]], said: str) -> None:
    assert why(nodes, a=deployment(0.5, running()), b=deployment(0.7, WAITING)) == {"stack/b": said}


def test_memory_and_several_replicas_are_said_too() -> None:
    found = why([node()], b=deployment(0.0, running(), WAITING, WAITING, pool=None, memory=2.0**30 * 1.5))
    assert found["stack/b"] == (
        "2 of 3 replicas have no place: each asks for 0.5 CPU, 1.5GiB of memory on any machine; "
        "10.0.0.1 has 1.5 of 2 CPU, 512.0MiB of 2.0GiB of memory free"
    )
