"""The catalog: which models there are, what each needs, how each scales. The only configuration.

One YAML file, validated here; every complaint names the place and what is valid there.
Knows nothing of Ray.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import (
    ByteSize,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from deployments import engines
from deployments.cache import Budget
from deployments.errors import ServeAppError
from deployments.settings import Frozen
from serve_app.cluster import Cluster, Pool, check_aliases, gpu_memory_for
from serve_app.complaints import complaint
from serve_app.graphs.checks import graph_complaints
from serve_app.graphs.spec import Graph
from serve_app.model import GATEWAY, SHARED, Model, Name, Resources, Scaling

SHIPPED = Path(__file__).parent / "catalogs"
RESERVED_ROUTES = (
    *("/v1", "/v2", "/openai", "/docs", "/openapi.json", "/static-offline-docs", "/embed", "/rerank", "/-"),
    "/graphs",
)
"""First path segments that the application itself answers."""


class CatalogError(ServeAppError):
    """A catalog that cannot be used; the message lists everything that is wrong with it."""

    status = 400
    code = "invalid_catalog"


class Gateway(Frozen):
    """The one entrance."""

    scaling: Scaling = Scaling(target=256)
    cpu: float = Field(0.1, ge=0, description="CPUs reserved for each gateway replica")
    max_body: ByteSize = Field(ByteSize(256 << 20), description="largest request body")
    max_reading: ByteSize = Field(
        ByteSize(2 << 30), description="large bodies that one gateway replica reads at once; more get 429"
    )


class OnDemand(Budget):
    """The one replica that hosts all models with `load: on-demand`, and how many of them it holds at once."""

    resources: Resources = Resources()
    target: int = Field(64, ge=1, description="requests in progress at once; four times as many may wait")


class Catalog(Frozen):
    """The whole application."""

    name: Name = "serve-app"
    namespace: Name = "default"
    layout: Literal["single", "per-model"] = Field(
        "single", description="per-model: each model is a Ray Serve application of its own, reached without the gateway"
    )
    gateway: Gateway = Gateway()
    gpu_memory: ByteSize | None = Field(None, description="memory of one GPU, of which vram is a fraction")
    pools: tuple[Pool, ...] = Field((), description="on Kubernetes, the machines that there are")
    cluster: Cluster = Cluster()
    on_demand: OnDemand = OnDemand()
    models: tuple[Model, ...]
    graphs: tuple[Graph, ...] = Field((), description="inference graphs, in KServe's keys")

    @field_validator("on_demand")
    @classmethod
    def _shared_in_fractions(cls, on_demand: OnDemand, info: ValidationInfo) -> OnDemand:
        return on_demand.model_copy(update={"resources": _in_fractions(on_demand.resources, info)})

    @field_validator("models")
    @classmethod
    def _models_in_fractions(cls, models: tuple[Model, ...], info: ValidationInfo) -> tuple[Model, ...]:
        return tuple(_model_in_fractions(model, info) for model in models)

    @model_validator(mode="after")
    def _unique(self) -> "Catalog":
        if not self.models:
            raise ValueError("models is empty; a catalog has at least one")
        for model in self.models:
            if model.name in (GATEWAY, SHARED):
                raise ValueError(f"a model is named {model.name!r}, which is what a deployment is called; rename it")
        names = [(model.name, label) for model in self.models for label in (model.name, *model.aliases)]
        _refuse_shared("name or alias", names)
        _refuse_shared("deployment", [(model.name, name) for model in self.models for name, *_ in model.own])
        _refuse_shared("pool", [("pools", pool.name) for pool in self.pools])
        _refuse_shared("predictor", [(model.name, model.predictor) for model in self.models])
        _refuse_shared("route", [(model.name, model.route) for model in self.models])
        for model in self.models:
            _check_route(model, self.models)
        graphs = [(f"graph {graph.name}", graph.name) for graph in self.graphs]
        _refuse_shared("name, alias or Host", [*names, *((one.name, one.predictor) for one in self.models), *graphs])
        check_aliases(self.cluster, {one.name for one in self.models} | {one.name for one in self.graphs})
        return self


def _model_in_fractions(model: Model, info: ValidationInfo) -> Model:
    around, place = model.transformer, "resources"
    try:
        model = model.model_copy(update={"resources": _in_fractions(model.resources, info)})
        if around and around.resources:
            place = "transformer.resources"
            around = around.model_copy(update={"resources": _in_fractions(around.resources, info)})
    except ValueError as error:
        raise ValueError(f"{model.name}: {place}: {error}") from None
    return model.model_copy(update={"transformer": around})


def _in_fractions(resources: Resources, info: ValidationInfo) -> Resources:
    pools, gpu_memory = info.data.get("pools", ()), info.data.get("gpu_memory")
    return resources.on(gpu_memory_for(resources.vram, resources.pool, pools, gpu_memory))


def _refuse_shared(what: str, labels: list[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for model, label in labels:
        if label in seen:
            raise ValueError(f"{what} {label!r} is used twice: by {seen[label]!r} and by {model!r}")
        seen[label] = model


def _check_route(model: Model, models: tuple[Model, ...]) -> None:
    first = "/" + model.route.split("/")[1]
    if first in RESERVED_ROUTES:
        raise ValueError(f"route {model.route!r} of {model.name!r} hides the application's own {first}; give another")
    for other in models:
        if other is not model and model.route.startswith(other.route + "/"):
            raise ValueError(f"route {model.route!r} of {model.name!r} lies under {other.route!r} of {other.name!r}")


def shipped() -> list[str]:
    """The names of the catalogs that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a catalog given by its path or by the name of a shipped one. Raises `CatalogError`."""
    for path in (Path(name), SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    raise CatalogError(f"no catalog {name!r}: neither a file nor one of the shipped ones ({', '.join(shipped())})")


def load(name: str) -> Catalog:
    """The catalog of that path or shipped name. Raises `CatalogError` with everything that is wrong."""
    path = find(name)
    try:
        return parse(YAML(typ="safe").load(path), str(path))
    except YAMLError as error:
        raise CatalogError(f"{path} is not valid YAML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path} cannot be read: {error}") from error


def parse(data: object, where: str = "the catalog") -> Catalog:
    """A catalog from what a YAML file holds. Raises `CatalogError` with everything that is wrong."""
    if not isinstance(data, dict):
        holds = "nothing" if data is None else f"a {type(data).__name__}, {str(data)[:40]!r}"
        raise CatalogError(f"{where} is not a catalog: it holds {holds}; a catalog has keys, of which models is needed")
    if "apiVersion" in data and "kind" in data:
        raise CatalogError(
            f"{where} is not a catalog but a Kubernetes object, {data['kind']}; `serve-app "
            "import` makes catalogs of KServe's, and `serve-app lint` looks into what was rendered"
        )
    try:
        catalog = Catalog.model_validate(data)
    except ValidationError as error:
        lines = [complaint(one, one["loc"], data, Catalog) for one in error.errors(include_url=False)]
    else:
        lines = [*_option_complaints(catalog), *graph_complaints(catalog.graphs, catalog.models)]
        if not lines:
            return catalog
    raise CatalogError(f"{where} is not a valid catalog:\n" + "\n".join(f"  {line}" for line in lines))


def _option_complaints(catalog: Catalog) -> Iterator[str]:
    for index, model in enumerate(catalog.models):
        options = engines.find(model.engine).options_type
        try:
            options.model_validate(model.options)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                place = ("models", index, "options", *one["loc"])
                yield complaint(one, place, catalog.model_dump(), Catalog, options)
