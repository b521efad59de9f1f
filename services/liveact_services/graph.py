"""A config -> the bound Serve application: the picture of ARCHITECTURE.md, in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from liveact_models.config import ConfigError
from liveact_services.audio_encoder.deployment import AudioEncoder
from liveact_services.conditioner.deployment import Conditioner
from liveact_services.config import DenoiserConfig, ServiceConfig, StageConfig, load_config
from liveact_services.denoiser.deployment import Denoiser
from liveact_services.gateway.deployment import Gateway
from liveact_services.observability.logs import logging_config
from liveact_services.placement.rank_actors import rank_resources
from liveact_services.placement.router import GatewayRouter, SessionRouter, VaultRouter
from liveact_services.placement.serve_policy import Role, autoscaling_config
from liveact_services.tenants.tenant import DEFAULT_POOL
from liveact_services.vae_decoder.deployment import VaeDecoder
from liveact_services.vae_encoder.deployment import VaeEncoder
from liveact_services.vault.deployment import Vault
from liveact_services.web.ingress import WebGateway

ROUTING_STATS_S = 2.0
"""How often routers hear what the replicas hold."""


def app(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config file: `import_path: liveact_services.graph:app`, `args` the configuration's fields.

    Secrets' files and the environment fill what `args` leaves out: the Redis' URL, which holds a password, comes from a file.
    Raises `ConfigError` that names the field.
    """
    config = load_config(**args)
    if config.redis_url is None:
        raise ConfigError(
            "redis_url is missing: accepted is redis://... or rediss://..., best from LIVEACT_SECRETS_DIR; a cluster embeds none"
        )
    return build(config, config.redis_url)


def build(config: ServiceConfig, redis_url: str) -> serve.Application:
    """The application: Gateway in front, five stages and the Vault behind it, each with replicas and resources of its own.

    Every pool has a Denoiser deployment to itself; the other stages and the Vault serve all.
    """

    def stage(cls: type, options: StageConfig) -> DeploymentHandle:
        return _deployment(config, cls, options, Role.FOLLOWS).bind(config)  # type: ignore[return-value]

    vault: Any = _deployment(config, Vault, config.vault, Role.FOLLOWS, router=VaultRouter).bind(config, redis_url)

    def denoiser(pool: str, options: StageConfig) -> DeploymentHandle:
        room = config.sessions.max_sessions
        deployment = _deployment(
            config, Denoiser, options, Role.LEADS, room, denoiser_name(pool), router=SessionRouter, holds=room
        )
        return deployment.bind(config, pool, vault)  # type: ignore[return-value]

    def decoder() -> DeploymentHandle:
        room = config.sessions.max_decoded
        deployment = _deployment(
            config, VaeDecoder, config.vae_decoder, Role.HOLDS, room, router=SessionRouter, holds=room
        )
        return deployment.bind(config, vault)  # type: ignore[return-value]

    opened = config.open_checkpoint()
    door = serve.ingress()(WebGateway) if config.console else Gateway
    return _deployment(config, door, config.gateway, Role.FRONTS, name=Gateway.__name__, router=GatewayRouter).bind(
        config,
        opened.config,
        Path(config.checkpoint).name,
        redis_url,
        conditioner=stage(Conditioner, config.conditioner),
        audio_encoder=stage(AudioEncoder, config.audio_encoder),
        vae_encoder=stage(VaeEncoder, config.vae_encoder),
        denoisers={pool: denoiser(pool, options) for pool, options in config.denoisers.items()},
        vae_decoder=decoder(),
        vault=vault,
    )


def denoiser_name(pool: str) -> str:
    """The deployment that serves a pool."""
    return Denoiser.__name__ if pool == DEFAULT_POOL else f"{Denoiser.__name__}-{pool}"


def _deployment(
    config: ServiceConfig,
    cls: type,
    options: StageConfig,
    role: Role,
    room: float = 1.0,
    name: str | None = None,
    *,
    router: type | None = None,
    holds: int = 0,
) -> serve.Deployment:
    """`room`: sessions that one replica carries, where the configuration does not say. `router`: none is Serve's own. `holds`:
    sessions that a replica is held by."""
    # A Vault's successor is there before it goes: sessions that leave in the same redeployment put their values there.
    extra: dict[str, Any] = {"max_surge_percent": 100} if cls is Vault else {}
    if router is not None:
        routing: dict[str, Any] = {"request_router_class": router, "request_routing_stats_period_s": ROUTING_STATS_S}
        extra["request_router_config"] = RequestRouterConfig(**routing)
    if options.autoscaling is None:
        extra["num_replicas"] = options.replicas
    else:
        carried = options.autoscaling.sessions_per_replica or room
        extra["autoscaling_config"] = autoscaling_config(options.autoscaling, carried, role, options.first_replicas)
    deployment: Any = serve.deployment(
        cls,
        name=name or cls.__name__,
        # Every session that is held has one call open for as long as it is there.
        max_ongoing_requests=options.max_ongoing_requests + holds,
        graceful_shutdown_timeout_s=config.drain_timeout_s,
        health_check_period_s=config.health_check_period_s,
        health_check_timeout_s=config.health_check_timeout_s,
        # An access line for every call would be some twenty a second and session.
        logging_config=logging_config(config.telemetry, access=False),
        **extra,
        **_resources(options),
    )
    return deployment


def _resources(options: StageConfig) -> dict[str, Any]:
    """What one replica takes of a node, and with ranks of its own, they; and which nodes."""
    if isinstance(options, DenoiserConfig) and options.coordinates:
        return rank_resources(options.ranks, options.num_cpus, options.num_gpus, options.node_labels)
    actor: dict[str, Any] = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
    return {"ray_actor_options": actor | ({"label_selector": options.node_labels} if options.node_labels else {})}
