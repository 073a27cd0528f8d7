"""One model of the catalog: what it needs, how it scales, and what of that its replica is told.

Knows nothing of the other models and of Ray.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, StringConstraints, field_validator, model_validator

from deployments import engines, sources
from deployments.engines import Task
from deployments.errors import SourceError
from deployments.settings import (
    DurationS,
    ExplainerSettings,
    Frozen,
    Limits,
    ModelIdentity,
    ModelSettings,
    TransformerSettings,
)

GATEWAY = "gateway"
"""The entrance's deployment, beside which each model's is called by the model's name."""
SHARED = "on-demand"
"""The deployment of all models that are loaded on demand."""
TIMEOUTS_S: dict[Task, float] = {"transcribe": 4 * 3600.0}
"""Deadlines of tasks whose requests take long."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=53)]
"""A DNS label (RFC 1035) short enough for `<name>-predictor` to be one too."""
Route = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]+)+$")]


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
    source: str = Field(
        description="pypi://<package>, file:///path, hf://<org>/<model>[@revision], s3://, gs://, https://, pvc://<claim>/<path>"
    )
    aliases: tuple[str, ...] = ()
    route: Route = Field("", validate_default=False, description="path prefix; by default /<name>")
    predictor: Name = Field("", validate_default=False, description="Host alias; by default <name>-predictor")
    options: dict[str, Any] = Field({}, description="the engine's options")
    explainer: ExplainerSettings | None = Field(None, description="what answers :explain: SHAP, or a class of your own")
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
    transformer: TransformerSettings | None = Field(None, description="a class of your own around it")
    version: str = Field("1", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="what V2's clients know as its version")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, engine: str) -> str:
        if engine not in engines.names():
            raise ValueError(f"unknown engine {engine!r}; have: {', '.join(engines.names())}")
        return engine

    @field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        try:
            sources.check(source)
        except SourceError as error:
            raise ValueError(error.message) from None
        return source

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

    @model_validator(mode="after")
    def _explainable(self) -> "Model":
        if self.explainer and self.explainer.class_ is None and self.task != "predict":
            raise ValueError(
                f"explainer: SHAP explains models of tables, and engine {self.engine} does {self.task}; give a class "
                "of your own, as in explainer: {class: module:Name}"
            )
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
            explainer=self.explainer,
            aliases=self.aliases,
            limits=self.limits,
            note=note,
            version=self.version,
            transformer=self.transformer,
        )
