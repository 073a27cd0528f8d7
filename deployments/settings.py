"""What a replica is told about its model: its identity (fixed for its life) and its settings.

The settings are exactly what travels in Ray Serve's `user_config`, so that changing one is a
`reconfigure()` and not a restart. Knows nothing of routes, scaling or other models.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")


def parse_duration_s(text: object) -> object:
    """Seconds of a duration as people write it: `90`, `90s`, `10m`, `1h30m`. Anything else passes unchanged."""
    if isinstance(text, timedelta):
        return text.total_seconds()
    if not isinstance(text, str):
        return text
    match = _DURATION.fullmatch(text.strip().replace(" ", ""))
    if not match or not any(match.groups()):
        raise ValueError(f"{text!r} is not a duration; write seconds, or for example 30s, 10m, 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.group("h", "m", "s"))
    return hours * 3600 + minutes * 60 + seconds


DurationS = Annotated[
    float,
    BeforeValidator(parse_duration_s),
    Field(gt=0, allow_inf_nan=False),
    PlainSerializer(lambda s: s, return_type=float),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}], "examples": ["30s", "10m"]}
    ),
]


def _names_a_class(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text):
        raise ValueError(f"{text!r} names no class; write it as module:Name, such as model:Model")
    return text


ClassName = Annotated[str, AfterValidator(_names_a_class)]
"""`module:Name`."""


class Frozen(BaseModel):
    """Base of everything read from a catalog: unknown keys refused, nothing changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Frozen):
    """Bounds on one request and on what may wait for the engine."""

    max_inputs: int = Field(2048, gt=0, description="texts, documents or pairs in one request")
    max_queue: int = Field(100_000, gt=0, description="inputs waiting for the engine before requests get 429")
    max_audio: DurationS = Field(4 * 3600.0, description="length of an audio file, as in 30m or 4h")
    max_choices: int = Field(128, gt=0, description="texts that one request may have generated: `n` for each prompt")
    max_stops: int = Field(64, gt=0, description="stop strings of one request")
    max_decompressed: ByteSize = Field(ByteSize(64 << 20), description="a compressed body, once it is opened")
    max_characters: int = Field(4096, gt=0, description="characters of a text to be spoken")


class ExplainerSettings(Frozen):
    """What answers `:explain`: SHAP, for models of numbers, or a class of the user's, for any model."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)

    kind: Literal["tree", "linear", "permutation"] | None = Field(
        None, description="SHAP's explainer; by default tree or linear where the model is such, else permutation"
    )
    background: str | None = Field(
        None,
        description="source of an npy or csv file: rows that the model is compared with; linear and permutation "
        "need them",
    )
    background_rows: int = Field(100, gt=0, description="rows of the background that are used, drawn evenly")
    output: str | None = Field(None, description="the output that is explained; by default what suits the kind")
    class_: ClassName | None = Field(
        None, alias="class", description="module:Name of a class of your own, instead of SHAP"
    )
    source: str | None = Field(None, description="the folder of the class; by default the model's")
    arguments: dict[str, Any] = Field({}, description="what the class is made with")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        shap = {"kind", "background", "background_rows", "output"}
        own = {"source", "arguments"}
        given = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if self.class_ is not None and (both := sorted(given & shap)):
            raise ValueError(f"class and {both[0]} exclude each other: {', '.join(sorted(shap))} are for SHAP")
        if self.class_ is None and (both := sorted(given & own)):
            raise ValueError(f"{both[0]} is for a class of your own; name it as class: module:Name")
        return self


class ModelIdentity(Frozen):
    """Structure: what cannot change without a new replica."""

    name: str
    engine: str


class TransformerSettings(Frozen):
    """A class of the user's around a model, as KServe's transformers are: see `deployments.engines._transformer`."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    class_: ClassName = Field(
        "transformer:Transformer", alias="class", description="module:Name; a module in the folder or an installed one"
    )
    source: str | None = Field(None, description="where the module is; by default the model's own source")
    arguments: dict[str, Any] = Field({}, description="what the class is made with")
    threads: int = Field(4, gt=0, description="requests that methods which are no coroutines work on at once")


class ModelSettings(Frozen):
    """Settings: what `reconfigure()` can change. A change of `source`, `options` or `explainer` loads a new version."""

    source: str
    options: dict[str, Any] = {}
    explainer: ExplainerSettings | None = None
    aliases: tuple[str, ...] = ()
    limits: Limits = Limits()
    note: str = ""
    version: str = "1"
    transformer: TransformerSettings | None = None
