"""The service's one typed configuration: YAML file < folder of secrets < environment (LIVEACT_...) < command line.

Nested fields are set from the environment with two underscores: LIVEACT_DENOISER__REPLICAS=2. In the folder that
LIVEACT_SECRETS_DIR names a file has a field's name and holds its value: what is read there stands in no environment.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)  # fmt: skip

from liveact_models.config import PRESETS, ConfigError
from liveact_services.audit.config import AuditConfig
from liveact_services.observability.config import TelemetryConfig
from liveact_services.placement.autoscaling import ScalingRules
from liveact_services.tenants.rules import TrustConfig
from liveact_services.tenants.source import ENVIRONMENT
from liveact_services.tenants.tenant import DEFAULT_POOL, Slug

if TYPE_CHECKING:
    from liveact_models.checkpoint import Checkpoint
    from liveact_models.config import ModelConfig, SamplingConfig
    from liveact_models.engine import Engine
    from liveact_models.vae import DecoderEngine
    from liveact_services.tenants.watch import DirectoryWatch

SECRETS_DIR = "LIVEACT_SECRETS_DIR"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class StageConfig(_Strict):
    """One Serve deployment's replicas and what each of them takes."""

    replicas: Annotated[int, Field(ge=1)] = 1
    num_cpus: Annotated[float, Field(ge=0)] = 0.1
    """Logical CPUs, for placement only; `threads` says how many the replica computes on."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1)] = 1
    """Torch threads. Ray would otherwise set them from num_cpus, that is to one."""
    max_ongoing_requests: Annotated[int, Field(ge=1)] = 64
    node_labels: dict[str, str] = {}
    """Only Ray nodes with these labels run a replica; none: any node."""
    autoscaling: ScalingRules | None = None
    """Follow the sessions (docs/scaling.md); none: always `replicas`. With it, `replicas` is only the number at the start."""

    @model_validator(mode="after")
    def _starts_within_bounds(self) -> StageConfig:
        rules = self.autoscaling
        if rules is not None and not rules.min_replicas <= self.first_replicas <= rules.max_replicas:
            raise ValueError(
                f"replicas {self.replicas} to start with: accepted are {rules.min_replicas} to {rules.max_replicas}, the "
                "bounds of `autoscaling`"
            )
        return self

    @property
    def coordinates(self) -> bool:
        """Whether a replica leaves the computing to processes of its own, and needs no device itself."""
        return False

    @property
    def first_replicas(self) -> int:
        """Replicas at the start."""
        if self.autoscaling is None or "replicas" in self.model_fields_set:
            return self.replicas
        return self.autoscaling.min_replicas


class DenoiserConfig(StageConfig):
    """The Denoisers of one pool."""

    ranks: Annotated[int, Field(ge=1)] = 1
    """Processes that share each replica's model, `num_cpus`, `num_gpus` and `threads` for each of them. Any number gives the
    same video; each loads all weights and holds its share of the sessions' memory. More than one need a GPU each or none."""
    parallel: Literal["sequence", "steps"] = "sequence"
    """What several ranks share. "sequence": every step, by its tokens (NCCL between GPUs, gloo otherwise), so that a block takes
    less time. "steps": a rank makes one diffusion step of every block, as many ranks as there are steps, so that as many
    sessions are denoised at once and nothing is exchanged within a step."""
    precision: Literal["fp32", "bf16", "fp8"] = "fp32"
    """Of the transformer, its sessions' memory included. fp8: bf16 with the layers' linears in e4m3, a scale a token
    and an output channel, but for those that `liveact calibrate` found to be too far off."""
    cache: Literal["exact", "fp8"] = "exact"
    """How sessions' memory is kept: as it was computed, or as e4m3 with a scale a token and head, in half the bytes of bf16."""
    attention: Literal["auto", "flash-attn-4", "flash-attn-3", "cudnn", "flash-attn-2", "sdpa", "math"] = "auto"
    """What computes attention; "auto": the first of the others that runs on the device. `liveact doctor` says which."""
    graphs: bool = False
    """Capture the diffusion steps in CUDA graphs, one a step and size of picture, replayed from then on. Needs a GPU, one rank
    or one a step, and no offloaded layers. Not yet run on a GPU."""
    exchange: Literal["exact", "fp8"] = "exact"
    """How queries, keys, values and attention outputs travel between ranks: as they are, or as e4m3 with a scale a head."""
    offload_blocks: Annotated[int, Field(ge=0)] = 0
    """Layers of the transformer whose matrices stay in host memory and come to the device when they are needed, one ahead: for
    cards that are too small (docs/weights.md). The same video, later. 0, or from 3 on: the device keeps room for two."""
    rank_timeout_s: Annotated[float, Field(gt=0)] = 60
    """A rank that gives no answer for this long has failed: the replica ends, and its sessions go on elsewhere."""

    @property
    def coordinates(self) -> bool:
        return self.ranks > 1

    @property
    def shares_steps(self) -> bool:
        """Whether several ranks work at each step, by its tokens and heads."""
        return self.coordinates and self.parallel == "sequence"

    @property
    def engine(self) -> Engine:
        """How the transformer is computed."""
        from liveact_models.engine import Engine

        return Engine(self.precision, self.attention, self.cache, self.graphs)

    @model_validator(mode="after")
    def _a_device_a_rank(self) -> DenoiserConfig:
        if self.coordinates and self.num_gpus not in (0, 1):
            raise ValueError(f"num_gpus {self.num_gpus:g} with {self.ranks} ranks: accepted for each rank are 0 and 1")
        if self.graphs and (self.shares_steps or self.offload_blocks):
            raise ValueError(
                f"graphs with {self.ranks} ranks and offload_blocks {self.offload_blocks}: accepted are 1, or one a step, and 0"
            )
        return self


class VaeDecoderConfig(StageConfig):
    """The deployment that decodes latents and encodes video."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """What the VAE's decoder computes in. bf16: half the bytes and time, frames a little off."""
    channels_last: bool = False
    """Whether a pixel's features stand beside each other in memory: what convolutions on tensor cores like best. The tiny VAE
    always has it so."""
    compile: bool = False
    """Whether norms and activations are one pass, by torch.compile, which takes some seconds when a replica starts."""
    h264: Literal["libx264", "nvenc"] = "libx264"
    """What encodes H.264: the processor, some 19 ms a frame of 512x512 on one core, or the encoder of an NVIDIA GPU, which is
    tried when a replica starts. nvenc has not been run on a GPU yet."""

    @property
    def engine(self) -> DecoderEngine:
        """How the decoder is computed."""
        from liveact_models.vae import DecoderEngine

        return DecoderEngine(self.precision, self.channels_last, self.compile)


class VaultConfig(StageConfig):
    """The deployment that holds sessions' exports."""

    max_gib: Annotated[float, Field(gt=0)] = 4.0
    """Host memory for exports in each replica; what does not fit is not protected."""


class SessionLimits(_Strict):
    """What a session may do and how long it lasts; seconds unless said."""

    max_sessions: Annotated[int, Field(ge=1)] = 8
    """Sessions admitted on one Denoiser replica, however much room its device has."""
    max_utilisation: Annotated[float, Field(gt=0)] = 0.85
    """Share of a Denoiser's device that real-time sessions may take together, by the measured time of their blocks."""
    credit_frames: Annotated[int, Field(ge=64)] = 160
    """Frames sent beyond the last acknowledged one; five blocks."""
    ack_timeout_s: Annotated[float, Field(gt=0)] = 60
    """A client that was sent its whole credit and acknowledges nothing for this long is cut off."""
    config_timeout_s: Annotated[float, Field(gt=0)] = 10
    """How long an open stream may wait before its config."""
    idle_timeout_s: Annotated[float, Field(gt=0)] = 600
    """A session that hears neither voice nor ack for this long expires."""
    detached_timeout_s: Annotated[float, Field(gt=0)] = 30
    """How long a session without a stream waits to be resumed."""
    max_duration_s: Annotated[float, Field(gt=0)] = 24 * 3600
    park_after_s: Annotated[float, Field(gt=0)] | None = None
    """A session that has made no block for this long gives its place on the Denoiser back until its next; none: never."""
    make_room: bool = True
    """Where no Denoiser has room for a session and several have some, smaller ones move so that it gets a place."""
    max_pending_voice_s: Annotated[float, Field(gt=0)] = 120
    """Voice received and not yet turned into video."""
    max_prompt_bytes: int = 4096
    export_blocks: Annotated[int, Field(ge=0)] = 4
    """A session's value goes to the Vault every so many blocks: what a lost replica costs is at most this to make again. 0:
    never, and sessions are unprotected: one that loses a replica begins again while it is young, and is lost later."""
    stage_timeout_s: Annotated[float, Field(gt=0)] = 20
    """A stage that gives nothing for this long is asked whether it lives; one that does not answer for as long is given up."""
    failover_timeout_s: Annotated[float, Field(gt=0)] = 90
    """How long a session that lost a replica waits for another one."""

    @field_validator("export_blocks")
    @classmethod
    def _not_every_block(cls, blocks: int) -> int:
        if blocks == 1:
            raise ValueError(
                "an export every block would always find the last one on its way: accepted are 0, never, and 2 on"
            )
        return blocks

    @property
    def max_decoded(self) -> int:
        """Sessions admitted on one VaeDecoder replica: it serves several Denoisers where those are the scarce ones."""
        return 2 * self.max_sessions

    @property
    def longest_rest_s(self) -> float:
        """Longer than any Gateway lets a session rest: what nobody has asked about for so long has lost its Gateway."""
        return self.idle_timeout_s + self.detached_timeout_s


class ServiceConfig(BaseSettings):
    """Everything `liveact serve` needs to know."""

    model_config = SettingsConfigDict(
        env_prefix="LIVEACT_", env_nested_delimiter="__", extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    preset: str = "tiny"
    checkpoint: str = "shipped"
    """A checkpoint folder; "shipped": the weights that come with this package, which `tiny` alone has; or "untrained":
    weights drawn from a fixed seed."""
    audio_encoder_dir: Path | None = None
    """The wav2vec2 folder of a released checkpoint, where it is not inside it."""
    tiny_vae_dir: Path | None = None
    """A checkpoint folder in our own layout whose small VAE decodes in place of the model's own; same latents."""
    device: str = "auto"
    sampler: Literal["renoise", "euler"] = "renoise"
    memory: Literal["conv", "mean"] = "conv"
    audio_guidance: Annotated[float, Field(ge=1.0)] = 1.0

    host: str = "127.0.0.1"
    """Address of the HTTP port, and the one told to clients. Serve's gRPC proxy listens on every address of the machine."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9000
    """Port of the gRPC proxy."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Ray Serve's own HTTP proxy, which the cluster's readiness probe asks, and browsers the console."""
    console: bool = True
    """Whether the HTTP port answers browsers: the console, unary calls and the stream over a WebSocket."""
    redis_url: str | None = None
    """redis://..., rediss://... or either by way of Sentinel (`sessions/address.py`); none: an embedded Valkey."""
    cluster: str = ""
    """How this cluster is called among those that serve with the same Redis, between which sessions can go; the chart takes
    KubeRay's name for it."""
    data_dir: Path = Path(".liveact")
    """Where the embedded Valkey keeps its files."""
    drain_timeout_s: Annotated[float, Field(ge=0)] = 20
    """How long a replica that is going away serves the sessions it holds, which leave meanwhile."""

    hang_timeout_s: Annotated[float, Field(gt=0)] = 300
    """A replica that computes at one call for this long is taken to hang, and Serve replaces it. Sessions move before that."""
    health_check_period_s: Annotated[float, Field(gt=0)] = 5
    """How often Serve asks each replica how it is."""
    health_check_timeout_s: Annotated[float, Field(gt=0)] = 10
    """How long a replica may take to say so. One that failed to three times in a row is replaced: a process that stands still
    after three times this and the period together."""

    gateway: StageConfig = StageConfig(max_ongoing_requests=256)
    conditioner: StageConfig = StageConfig()
    audio_encoder: StageConfig = StageConfig()
    vae_encoder: StageConfig = StageConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    vae_decoder: VaeDecoderConfig = VaeDecoderConfig()
    vault: VaultConfig = VaultConfig()
    sessions: SessionLimits = SessionLimits()
    telemetry: TelemetryConfig = TelemetryConfig()
    audit: AuditConfig = AuditConfig()
    trust: TrustConfig = TrustConfig()

    tenants: str | None = None
    """Who may call (docs/tenants.md): a YAML file, a folder of them (a mounted Kubernetes Secret), or env:NAME, the
    environment variable that holds the YAML; none: everybody, as one tenant without quotas."""
    pools: dict[Slug, DenoiserConfig] = {}
    """Denoisers set aside for tenants, by name, each a deployment of its own; `denoiser` is the pool "default"."""

    @field_validator("tenants")
    @classmethod
    def _absolute(cls, place: str | None) -> str | None:
        # Replicas have working folders of their own. Symlinks stay: a mounted Secret changes by exchanging one.
        return place if place is None or place.startswith(ENVIRONMENT) else os.path.abspath(place)

    @field_validator("pools")
    @classmethod
    def _no_second_default(cls, pools: dict[str, DenoiserConfig]) -> dict[str, DenoiserConfig]:
        if DEFAULT_POOL in pools:
            raise ValueError(f'the pool "{DEFAULT_POOL}" is `denoiser`; accepted are other names')
        return pools

    @model_validator(mode="after")
    def _carries(self) -> ServiceConfig:
        for name in ("gateway", "conditioner", "audio_encoder", "vae_encoder", "vault"):
            rules = getattr(self, name).autoscaling
            if rules is not None and rules.sessions_per_replica is None:
                raise ValueError(
                    f"{name}.autoscaling.sessions_per_replica is missing: accepted is how many sessions one replica carries"
                )
        return self

    @model_validator(mode="after")
    def _known_preset(self) -> ServiceConfig:
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is unknown; accepted are {', '.join(PRESETS)}")
        return self

    @model_validator(mode="after")
    def _work_for_all_ranks(self) -> ServiceConfig:
        model = PRESETS[self.preset]
        heads, sampling = model.transformer.num_heads, self.sampling(model)
        for pool, stage in self.denoisers.items():
            name = "denoiser" if pool == DEFAULT_POOL else f"pools.{pool}"
            if stage.parallel == "steps" and (stage.ranks != sampling.num_steps or sampling.context == "clean"):
                raise ValueError(
                    f"{name}.parallel steps with {stage.ranks} ranks and context {sampling.context!r}: accepted are "
                    f"{sampling.num_steps} ranks, one a diffusion step, and 'same-step'"
                )
            if stage.shares_steps and stage.ranks > heads:
                raise ValueError(
                    f"{name}.ranks {stage.ranks}: preset {self.preset} has {heads} attention heads; accepted are 1 to {heads}"
                )
        return self

    @model_validator(mode="after")
    def _layers_to_offload(self) -> ServiceConfig:
        layers = PRESETS[self.preset].transformer.num_layers
        for pool, stage in self.denoisers.items():
            if stage.offload_blocks and not 3 <= stage.offload_blocks <= layers:
                name = "denoiser" if pool == DEFAULT_POOL else f"pools.{pool}"
                raise ValueError(
                    f"{name}.offload_blocks {stage.offload_blocks}: accepted for {self.preset} are 0 (none) and 3 to {layers}"
                )
        return self

    @property
    def denoisers(self) -> dict[str, DenoiserConfig]:
        """The Denoisers of every pool."""
        return {DEFAULT_POOL: self.denoiser, **self.pools}

    def open_checkpoint(self) -> Checkpoint:
        """The weights to serve. Raises `CheckpointError`."""
        from liveact_models.checkpoint import open_checkpoint

        return open_checkpoint(
            self.checkpoint, self.preset, audio_encoder=self.audio_encoder_dir, tiny_vae=self.tiny_vae_dir
        )

    def open_tenants(self) -> DirectoryWatch | None:
        """The directory of tenants, read; None where everybody is let in. Raises `DirectoryError`."""
        from liveact_services.tenants.source import DirectorySource
        from liveact_services.tenants.watch import DirectoryWatch

        return None if self.tenants is None else DirectoryWatch(DirectorySource(self.tenants), self.pools)

    def sampling(self, model: ModelConfig) -> SamplingConfig:
        """How blocks are sampled: the model's own way but for what is configured."""
        return dataclasses.replace(
            model.sampling, sampler=self.sampler, memory=self.memory, audio_guidance=self.audio_guidance
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `load_config` has merged everything; another process must not read its own environment into it.
        return (init_settings,)


def load_config(path: Path | None = None, **overrides: Any) -> ServiceConfig:
    """The configuration from an optional YAML file, a folder of secrets, the environment and overrides, the later ones winning.

    Nested tables are merged field by field. Raises `ConfigError` that names the field and what is accepted.
    """
    values = {} if path is None else _read_yaml(path)
    try:
        if folder := os.environ.get(SECRETS_DIR):
            values = _merged(values, SecretsSettingsSource(ServiceConfig, folder, env_prefix="")())
        values = _merged(values, EnvSettingsSource(ServiceConfig)())
        values = _merged(values, {name: value for name, value in overrides.items() if value is not None})
        return ServiceConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise ConfigError(f"{where}: {first['msg']}") from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, table by table."""
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({error})") from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a table of fields, found {type(loaded).__name__}")
    return loaded or {}
