"""The catalog's part on Kubernetes: the pools of machines that models run on, and what surrounds the application.

Only rendering and planning read it; on one machine (`serve-app up`) it has no meaning.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, StringConstraints, model_validator

from deployments.settings import Frozen

GPU_RESOURCES = {
    "nvidia": "nvidia.com/gpu",
    "amd": "amd.com/gpu",
    "intel-i915": "gpu.intel.com/i915",
    "intel-xe": "gpu.intel.com/xe",
}
"""Kinds of GPUs, and what their device plugins call one in a pod's limits."""
Label = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""A DNS label (RFC 1035)."""
Object = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
"""The name of an object in Kubernetes (RFC 1123)."""


class Toleration(Frozen):
    """A taint of nodes on which the pool's pods may be, in Kubernetes' words."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None  # noqa: N815  # Kubernetes' own name


class Volume(Frozen):
    """A PersistentVolumeClaim that every pod of a pool has at a path, for `file://` sources and caches."""

    claim: Object
    path: str = Field(pattern=r"^/[^:]+$", description="where it is in the pods")
    read_only: bool = False


class Placed(Frozen):
    """Which nodes pods go to, and what they get there."""

    cpu: int = Field(ge=1, description="CPUs of one pod")
    memory: ByteSize = Field(gt=0, description="RAM of one pod, such as 16GiB")
    selector: dict[str, str] = Field({}, description="labels of the nodes")
    tolerations: tuple[Toleration, ...] = ()
    image: str | None = Field(None, min_length=1, description="by default the project's for that kind of GPU")
    runtime_class: Object | None = None
    volumes: tuple[Volume, ...] = ()


class Head(Placed):
    """The pod that leads the Ray cluster; no model runs there."""

    cpu: int = Field(2, ge=1)
    memory: ByteSize = Field(ByteSize(4 << 30), gt=0)


class Pool(Placed):
    """Machines of one kind, each of which runs one pod with all its GPUs."""

    name: Label
    nodes: int = Field(1, ge=1, description="how many there are")
    max_nodes: int | None = Field(None, ge=1, description="how many there may be; more than nodes: Ray adds them")
    kind: Literal["nvidia", "amd", "intel-i915", "intel-xe", "cpu"] = "cpu"
    gpus: int = Field(-1, ge=0, validate_default=False, description="GPUs of one node; by default 1, 0 for kind cpu")
    gpu_memory: ByteSize | None = Field(None, gt=0, description="memory of one GPU, such as 24GiB")
    gpu_resource: str = Field(
        "", validate_default=False, min_length=1, description="what a pod's limits call a GPU; by default as the kind"
    )
    groups: tuple[int, ...] = Field((), description="further group ids, such as the one that owns /dev/dri")

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kind = given.get("kind", "cpu")
        resource = {"gpu_resource": GPU_RESOURCES[kind]} if isinstance(kind, str) and kind in GPU_RESOURCES else {}
        return {"gpus": 0 if kind == "cpu" else 1} | resource | given

    @model_validator(mode="after")
    def _consistent(self) -> "Pool":
        if self.kind == "cpu" and (self.gpus or self.gpu_memory or self.gpu_resource):
            raise ValueError("gpus, gpu_memory and gpu_resource are for GPUs, and the kind is cpu")
        if self.kind != "cpu" and not self.gpus:
            raise ValueError(f"gpus is 0 and kind is {self.kind}; for nodes without GPUs it is cpu")
        if self.max_nodes is not None and self.max_nodes < self.nodes:
            raise ValueError(f"max_nodes is {self.max_nodes}, below nodes, which is {self.nodes}")
        return self

    @property
    def most_nodes(self) -> int:
        """How many nodes it may have."""
        return self.max_nodes or self.nodes


class SecretKey(Frozen):
    """One value in a Secret."""

    name: Object
    key: str = "password"


class Redis(Frozen):
    """Where Ray's head keeps its state, so that models go on answering while it restarts."""

    address: str = Field(pattern=r"^(rediss?://)?[^/:\s]+:\d+$", description="host:port")
    password: SecretKey | None = None


class HttpRoute(Frozen):
    """A Gateway API route from outside."""

    gateway: Object
    gateway_namespace: Object | None = None
    hostnames: tuple[str, ...] = ()


class NetworkPolicy(Frozen):
    """Who may reach the pods; everything else is refused."""

    clients: tuple[Object, ...] = Field((), description="namespaces, besides this one, whose pods may send requests")
    operator: Object = Field("kuberay-system", description="the namespace of the KubeRay operator")
    monitoring: Object | None = Field(None, description="the namespace of Prometheus")


class Variable(Frozen):
    """An environment variable of every pod: a value, or one in a Secret."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    value: str | None = None
    secret: SecretKey | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Variable":
        if (self.value is None) == (self.secret is None):
            raise ValueError("give a value or a secret, and not both")
        return self


class Cluster(Frozen):
    """What surrounds the pools."""

    head: Head = Head()
    alias_ports: frozenset[Literal[80, 8000, 9000]] = Field(
        frozenset({8000}), min_length=1, description="ports of the <model>-predictor aliases: 80 HTTP, 9000 gRPC too"
    )
    alias_namespaces: dict[str, tuple[Label, ...]] = Field(
        {}, description="by model, further namespaces whose clients look for its alias"
    )
    auth_secret: Object | None = Field(
        None, description="Secret whose auth_token guards Ray's control plane; without one anyone inside may run code"
    )
    env: tuple[Variable, ...] = Field((), description="environment variables of every pod, such as HF_TOKEN")
    env_secrets: tuple[Object, ...] = Field((), description="Secrets all of whose keys are environment variables")
    image_pull_secrets: tuple[Object, ...] = ()
    redis: Redis | None = None
    upgrade: Literal["auto", "none", "new-cluster"] = Field(
        "auto", description="whether a change of pods makes a new Ray cluster beside the old one"
    )
    http_route: HttpRoute | None = None
    network_policy: NetworkPolicy | None = None
    pod_monitor: bool = Field(True, description="have the Prometheus operator collect metrics")


def check_aliases(cluster: Cluster, models: set[str]) -> None:
    """Raise `ValueError` for further aliases of models that there are not."""
    if unknown := cluster.alias_namespaces.keys() - models:
        have = ", ".join(sorted(models))
        raise ValueError(f"alias_namespaces names {', '.join(sorted(unknown))}, which are no models; have: {have}")


def gpu_memory_for(vram: int | None, pool: str | None, pools: Sequence[Pool], otherwise: int | None) -> int | None:
    """The memory of the GPU that a model will be on: its pool's, else the smallest that holds `vram`.

    `otherwise` where no pool says. Raises `ValueError` for a pool that is not there.
    """
    if pool is not None and pool not in {one.name for one in pools}:
        raise ValueError(f"pool is {pool!r}; have: {', '.join(one.name for one in pools) or 'none, see pools:'}")
    sizes = [int(one.gpu_memory) for one in pools if one.gpu_memory and pool in (None, one.name)]
    holding = [size for size in sizes if size >= (vram or 0)]
    return min(holding, default=None) or max(sizes, default=None) or otherwise
