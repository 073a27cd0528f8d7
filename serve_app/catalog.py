"""The catalog: which models there are, what each needs, how each scales. The only configuration.

One YAML file, validated here; every complaint names the place and what is valid there.
Knows nothing of Ray.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ByteSize,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from deployments import engines
from deployments.cache import Budget
from deployments.engines import Task
from deployments.errors import ServeAppError
from deployments.settings import DurationS, Frozen, Limits, ModelIdentity, ModelSettings
from serve_app.cluster import Cluster, Pool, check_aliases, gpu_memory_for
from serve_app.complaints import complaint

SHIPPED = Path(__file__).parent / "catalogs"
GATEWAY = "gateway"
SHARED = "on-demand"
"""The deployment of all models that are loaded on demand."""
"""The entrance's deployment, beside which each model's is called by the model's name."""
RESERVED_ROUTES = ("/v1", "/v2", "/openai", "/docs", "/openapi.json", "/static-offline-docs", "/embed", "/rerank", "/-")
"""First path segments that the application itself answers."""

TIMEOUTS_S: dict[Task, float] = {"transcribe": 4 * 3600.0}
"""Deadlines of tasks whose requests take long."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=53)]
"""A DNS label (RFC 1035) short enough for `<name>-predictor` to be one too."""
Route = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]+)+$")]


class CatalogError(ServeAppError):
    """A catalog that cannot be used; the message lists everything that is wrong with it."""

    status = 400
    code = "invalid_catalog"


class Resources(Frozen):
    """What one replica reserves."""

    cpu: float = Field(1.0, ge=0, description="CPUs; a fraction is shared with others")
    gpu: float = Field(0.0, ge=0, description="GPUs: a fraction of one, or several whole ones")
    vram: ByteSize | None = Field(None, description="memory of a GPU, such as 3GiB, instead of gpu")
    memory: ByteSize | None = Field(None, description="RAM, such as 4GiB")
    pool: str | None = Field(None, description="on which of the catalog's pools; by default on any with room")

    def on(self, gpu_memory: int | None) -> "Resources":
        """The same with `vram` as a fraction of a GPU that has so many bytes. Raises `ValueError`."""
        if self.vram is None:
            return self
        if self.gpu:
            raise ValueError("resources has gpu and vram, which say the same; give one of them")
        if gpu_memory is None:
            raise ValueError("vram needs the catalog's gpu_memory, or a pool's: what one GPU has, such as 24GiB")
        if self.vram > gpu_memory:
            raise ValueError(
                f"vram is {self.vram.human_readable()}; one GPU has {ByteSize(gpu_memory).human_readable()}"
            )
        return self.model_copy(update={"gpu": math.ceil(self.vram / gpu_memory * 10_000) / 10_000})

    @field_validator("gpu")
    @classmethod
    def _whole_above_one(cls, gpu: float) -> float:
        if gpu > 1 and gpu != int(gpu):
            raise ValueError(f"{gpu} GPUs: more than one GPU is a whole number of them")
        return gpu


class Scaling(Frozen):
    """How many replicas, and how much each takes on at once."""

    min: int = Field(1, ge=1)
    max: int = Field(1, ge=1)
    target: int = Field(64, ge=1, description="requests in progress per replica that autoscaling aims at")

    @model_validator(mode="after")
    def _ordered(self) -> "Scaling":
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, below min, which is {self.min}")
        return self


class Model(Frozen):
    """One model: a name that clients call, an engine that runs it, a source of its files."""

    name: Name
    engine: str
    source: str = Field(description="pypi://<package>, file:///path, hf://<org>/<model>[@revision]")
    aliases: tuple[str, ...] = ()
    route: Route = Field("", validate_default=False, description="path prefix; by default /<name>")
    predictor: Name = Field("", validate_default=False, description="Host alias; by default <name>-predictor")
    options: dict[str, Any] = Field({}, description="the engine's options")
    note: str = Field("", description="what people should know of it, shown in /v1/models; by default the engine's")
    resources: Resources = Resources()
    scaling: Scaling = Scaling()
    timeout: DurationS | None = Field(
        None,
        description="how long a request may wait for its answer to begin; by default 10 minutes, and 4 hours for "
        "transcription, whose answer begins with its end unless it is streamed",
    )
    limits: Limits = Limits()
    load: Literal["always", "on-demand"] = Field("always", description="on-demand: when it is asked for; see on_demand")
    inline: bool = Field(False, description="run it inside the gateway: for small models on the CPU, saves a hop")
    version: str = Field("1", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="what V2's clients know as its version")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, engine: str) -> str:
        if engine not in engines.names():
            raise ValueError(f"unknown engine {engine!r}; have: {', '.join(engines.names())}")
        return engine

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("name"), str):
            return {"route": f"/{given['name']}", "predictor": f"{given['name']}-predictor"} | given
        return given

    @model_validator(mode="after")
    def _hosted_once(self) -> "Model":
        if self.inline and self.load == "on-demand":
            raise ValueError("inline and load: on-demand exclude each other")
        host = "on_demand:" if self.load == "on-demand" else "gateway:" if self.inline else None
        for key in ("resources", "scaling") if host else ():
            if key in self.model_fields_set:
                raise ValueError(f"{key} is its host's here; set it under {host}")
        return self

    @property
    def deployment(self) -> str:
        """The Ray Serve deployment that hosts it."""
        return SHARED if self.load == "on-demand" else GATEWAY if self.inline else self.name

    @property
    def task(self) -> Task:
        """What the model does, which its engine decides."""
        return engines.find(self.engine).task

    @property
    def timeout_s(self) -> float:
        """`timeout`, or the task's default."""
        return self.timeout or TIMEOUTS_S.get(self.task, 600.0)

    @property
    def identity(self) -> ModelIdentity:
        """What a replica of it is told once."""
        return ModelIdentity(name=self.name, engine=self.engine)

    @property
    def settings(self) -> ModelSettings:
        """What `reconfigure()` tells a replica of it."""
        note = self.note or engines.find(self.engine).note
        return ModelSettings(
            source=self.source,
            options=self.options,
            aliases=self.aliases,
            limits=self.limits,
            note=note,
            version=self.version,
        )


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
    layout: Literal["single"] = "single"
    gateway: Gateway = Gateway()
    gpu_memory: ByteSize | None = Field(None, description="memory of one GPU, of which vram is a fraction")
    pools: tuple[Pool, ...] = Field((), description="on Kubernetes, the machines that there are")
    cluster: Cluster = Cluster()
    on_demand: OnDemand = OnDemand()
    models: tuple[Model, ...]

    @field_validator("on_demand")
    @classmethod
    def _shared_in_fractions(cls, on_demand: OnDemand, info: ValidationInfo) -> OnDemand:
        return on_demand.model_copy(update={"resources": _in_fractions(on_demand.resources, info)})

    @field_validator("models")
    @classmethod
    def _models_in_fractions(cls, models: tuple[Model, ...], info: ValidationInfo) -> tuple[Model, ...]:
        return tuple(model.model_copy(update={"resources": _in_fractions(model.resources, info)}) for model in models)

    @model_validator(mode="after")
    def _unique(self) -> "Catalog":
        if not self.models:
            raise ValueError("models is empty; a catalog has at least one")
        for model in self.models:
            if model.name in (GATEWAY, SHARED):
                raise ValueError(f"a model is named {model.name!r}, which is what a deployment is called; rename it")
        names = [(model.name, label) for model in self.models for label in (model.name, *model.aliases)]
        _refuse_shared("name or alias", names)
        _refuse_shared("pool", [("pools", pool.name) for pool in self.pools])
        _refuse_shared("predictor", [(model.name, model.predictor) for model in self.models])
        _refuse_shared("route", [(model.name, model.route) for model in self.models])
        for model in self.models:
            _check_route(model, self.models)
        check_aliases(self.cluster, {model.name for model in self.models})
        return self


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
    try:
        catalog = Catalog.model_validate(data)
    except ValidationError as error:
        lines = [complaint(one, one["loc"], data, Catalog) for one in error.errors(include_url=False)]
    else:
        lines = list(_option_complaints(catalog))
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
