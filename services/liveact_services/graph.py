"""A config -> the bound Serve application: the picture of ARCHITECTURE.md, in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from liveact_services.audio_encoder.deployment import AudioEncoder
from liveact_services.conditioner.deployment import Conditioner
from liveact_services.config import ServiceConfig, StageConfig
from liveact_services.denoiser.deployment import Denoiser
from liveact_services.gateway.deployment import Gateway
from liveact_services.placement.router import SessionRouter, VaultRouter
from liveact_services.vae_decoder.deployment import VaeDecoder
from liveact_services.vae_encoder.deployment import VaeEncoder
from liveact_services.vault.deployment import Vault


def build(config: ServiceConfig, redis_url: str) -> serve.Application:
    """The application: Gateway in front, five stages and the Vault behind it, each with replicas and resources of its own."""

    def stage(
        cls: type, options: StageConfig, router: type | None = None, **handles: DeploymentHandle
    ) -> DeploymentHandle:
        return _deployment(config, cls, options, router).bind(config, **handles)  # type: ignore[return-value]

    opened = config.open_checkpoint()
    vault = stage(Vault, config.vault, VaultRouter)
    return _deployment(config, Gateway, config.gateway).bind(
        config,
        opened.config,
        Path(config.checkpoint).name,
        redis_url,
        conditioner=stage(Conditioner, config.conditioner),
        audio_encoder=stage(AudioEncoder, config.audio_encoder),
        vae_encoder=stage(VaeEncoder, config.vae_encoder),
        denoiser=stage(Denoiser, config.denoiser, SessionRouter, vault=vault),
        vae_decoder=stage(VaeDecoder, config.vae_decoder, SessionRouter, vault=vault),
        vault=vault,
    )


def _deployment(config: ServiceConfig, cls: type, options: StageConfig, router: Any = None) -> serve.Deployment:
    extra: dict[str, Any] = {}
    if router is not None:
        extra["request_router_config"] = RequestRouterConfig(request_router_class=router)
    deployment: Any = serve.deployment(
        cls,
        name=cls.__name__,
        num_replicas=options.replicas,
        max_ongoing_requests=options.max_ongoing_requests,
        graceful_shutdown_timeout_s=config.drain_timeout_s,
        # An access line for every call would be some twenty a second and session.
        logging_config=LoggingConfig(enable_access_log=False),
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        **extra,
    )
    return deployment
