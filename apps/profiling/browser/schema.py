"""What the page may send: every field bounded, nothing unknown accepted."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge_sr.errors import DataError
from edge_sr.foreign_text import visible

MOST_SAMPLES = 10_000
_HOUR_MS = 3_600_000.0

Short = Annotated[str, StringConstraints(max_length=200)]
Line = Annotated[str, StringConstraints(max_length=500)]
Milliseconds = Annotated[float, Field(ge=0, le=_HOUR_MS, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Brand(_Message):
    """One entry of the browser's own list of names and versions."""

    brand: Short
    version: Short


class ClientHints(_Message):
    """User-agent client hints, where the browser gives them (Chromium, secure contexts)."""

    architecture: Short
    bitness: Short
    model: Short
    platform: Short
    platform_version: Short
    mobile: bool
    brands: Annotated[list[Brand], Field(max_length=8)]


class Adapter(_Message):
    """What WebGPU tells of its adapter."""

    vendor: Short
    architecture: Short
    device: Short
    description: Short
    fallback: bool
    shader_f16: bool


class Screen(_Message):
    """In CSS pixels."""

    width: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
    height: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
    pixel_ratio: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Hello(_Message):
    """What the page says of the device it runs on. ``resume`` is the run that a reloaded page takes up again."""

    user_agent: Annotated[str, StringConstraints(max_length=1000)]
    client_hints: ClientHints | None
    hardware_concurrency: Annotated[int, Field(ge=1, le=4096)] | None
    device_memory_gb: Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] | None
    secure_context: bool
    cross_origin_isolated: bool
    automated: bool
    clock_resolution_ms: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    screen: Screen
    webgpu: Adapter | None
    resume: Short | None


class ProgressNote(_Message):
    """Where the page is; a heartbeat while ``job`` is None."""

    kind: Literal["progress"] | None = None
    job: Count | None
    configuration: Short | None
    phase: Short
    done: Count
    total: Count


class PostedTiming(_Message):
    """The samples of one configuration, in milliseconds, in order."""

    runtime_build: Short
    runtime_load_ms: Milliseconds
    load_ms: Milliseconds
    first_ms: Milliseconds
    warmup_runs: Count
    runs_per_sample: Annotated[int, Field(ge=1, le=10_000)]
    samples_ms: Annotated[
        list[Annotated[float, Field(gt=0, le=_HOUR_MS, allow_inf_nan=False)]],
        Field(min_length=1, max_length=MOST_SAMPLES),
    ]
    clock_resolution_ms: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    fully_accelerated: bool | None
    output_stable: bool


class PostedResult(_Message):
    """The page's last word on one configuration. ``hidden``: the page was in the background at some time."""

    status: Literal["measured", "skipped", "failed"]
    reason: Line | None
    timing: PostedTiming | None
    hidden: bool


Message = TypeVar("Message", bound=_Message)


def parse(kind: type[Message], body: bytes) -> Message:
    """Validate one JSON message.

    Raises:
        DataError: not JSON, a field is unknown, missing, of another type or out of range; one line that names it.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = visible(".".join(str(part) for part in first["loc"]), limit=100) or "message"
        raise DataError(f"expected a {kind.__name__} message, got a bad {where}: {first['msg']}") from None
