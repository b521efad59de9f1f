"""The whole service on this machine: embedded Valkey, a local Ray, the application, and its gRPC port."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from liveact_services.config import ServiceConfig
from liveact_services.observability.logs import logging_config
from liveact_services.sessions.embedded import EmbeddedValkey
from liveact_services.sessions.server import require_suitable

SERVICERS = [
    "liveact.v1.avatar_pb2_grpc.add_AvatarServiceServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
]
APPLICATION = "liveact"
START_TIMEOUT_S = 300.0
LOGICAL_CPUS = 64
"""Ray counts logical CPUs for placement only; on one machine every deployment must find room, whatever it has."""
OBJECT_STORE_BYTES = 512 * 1024 * 1024

Progress = Callable[[str], None]


class ServiceStartError(RuntimeError):
    """The service did not come up; the message says at what it failed."""


class RunningService:
    """A started service. `stop` ends everything that `start_service` began."""

    def __init__(
        self,
        address: str,
        redis: str,
        checkpoint: str,
        valkey: EmbeddedValkey | None,
        redis_url: str = "",
        console: str | None = None,
    ) -> None:
        self.address = address
        """host:port of the gRPC endpoint."""
        self.console = console
        """URL of the console; None where it is off."""
        self.redis = redis
        """"embedded", or the URL without its password."""
        self.checkpoint = checkpoint
        self._valkey, self._redis_url = valkey, redis_url

    def status(self, name: str = APPLICATION) -> dict[str, str]:
        """Each deployment's status, as Serve reports it."""
        from ray import serve

        application = serve.status().applications.get(name)
        return {} if application is None else {n: str(d.status.value) for n, d in application.deployments.items()}

    def add(self, name: str, config: ServiceConfig, progress: Progress = lambda line: None) -> None:
        """Start another application beside the first, with deployments of its own, and return once it is SERVING.

        From then on every call says in its metadata which `application` it is for. Raises as `start_service` does.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        _deploy(config, self._redis_url, self, progress, deadline, name)
        _wait_until_serving(self.address, progress, deadline, name)

    def stop(self) -> None:
        """Tell the clients, let streams go, and stop what was started."""
        import ray
        from ray import serve

        if ray.is_initialized():
            # A Ray that has died already has nothing left to be told.
            with contextlib.suppress(Exception):
                serve.get_app_handle(APPLICATION).go_away.remote().result(timeout_s=2)
            hush_ray()
            with contextlib.suppress(Exception):
                serve.shutdown()
            ray.shutdown()
        if self._valkey is not None:
            self._valkey.stop()


def start_service(config: ServiceConfig, progress: Progress = lambda line: None) -> RunningService:
    """Start everything and return once the service is SERVING.

    Port 0 takes a free one. Raises `ServiceStartError`, `UnsuitableRedis`, `CheckpointError` or `ConfigError` (a
    `DirectoryError` is one); what was started is stopped again.
    """
    began = time.monotonic()
    config = config.model_copy(
        update={"port": config.port or free_port(config.host), "http_port": config.http_port or free_port(config.host)}
    )
    for port in (config.port, config.http_port):
        _require_free(config.host, port)
    # What is wrong with the checkpoint's folder, the tenants or the Redis is told now and not half a minute later.
    config.open_checkpoint()
    config.open_tenants()
    if config.redis_url is not None:
        require_suitable(config.redis_url)
    valkey: EmbeddedValkey | None = None
    running: RunningService | None = None
    try:
        if config.redis_url is None:
            progress("starting the embedded Valkey")
            valkey = EmbeddedValkey(config.data_dir / "valkey").start()
        redis_url = config.redis_url or (valkey.url if valkey else "")
        address = f"{config.host}:{config.port}"
        console = _console(config) if config.console else None
        running = RunningService(address, _shown(config.redis_url), config.checkpoint, valkey, redis_url, console)
        _start_ray(config, progress)
        _deploy(config, redis_url, running, progress, began + START_TIMEOUT_S)
        _wait_until_serving(address, progress, began + START_TIMEOUT_S)
    except BaseException:
        if running is not None:
            running.stop()
        elif valkey is not None:
            valkey.stop()
        raise
    return running


def _start_ray(config: ServiceConfig, progress: Progress) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS", "1")
    # Ray would set a replica's thread count from its logical CPUs; replicas take theirs from the config.
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    progress("starting Ray on this machine")
    ray.init(
        num_cpus=LOGICAL_CPUS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES, configure_logging=True,
        _metrics_export_port=config.telemetry.metrics_port or None,
    )  # fmt: skip
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    progress(f"starting the gRPC proxy on port {config.port}")
    serve.start(
        http_options=HTTPOptions(host=config.host, port=config.http_port),
        grpc_options=gRPCOptions(port=config.port, grpc_servicer_functions=SERVICERS),
        logging_config=logging_config(config.telemetry, access=True),
    )


def _deploy(
    config: ServiceConfig,
    redis_url: str,
    running: RunningService,
    progress: Progress,
    deadline: float,
    name: str = APPLICATION,
) -> None:
    from ray import serve

    from liveact_services.graph import build

    application = build(config, redis_url)
    progress(f"starting the deployments of {config.preset}, checkpoint {config.checkpoint}")
    target = serve.RunTarget(target=application, name=name, route_prefix="/" if name == APPLICATION else f"/{name}")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    healthy: set[str] = set()
    while True:
        state = serve.status().applications.get(name)
        if state is not None:
            for stage, deployment in state.deployments.items():
                if deployment.status == "HEALTHY" and stage not in healthy:
                    healthy.add(stage)
                    progress(f"{stage} is healthy ({len(healthy)}/{len(state.deployments)})")
            if state.status == "RUNNING":
                return
            if state.status == "DEPLOY_FAILED":
                raise ServiceStartError(_why(state))
        if time.monotonic() > deadline:
            waiting = sorted(set(running.status(name)) - healthy)
            raise ServiceStartError(f"not up after {START_TIMEOUT_S:.0f} s; still starting: {', '.join(waiting)}")
        time.sleep(0.25)


def _why(state: object) -> str:
    """The first deployment's own last words: its exception's message, not its traceback."""
    for name, deployment in state.deployments.items():  # type: ignore[attr-defined]
        lines = [line for line in str(deployment.message).splitlines() if line.strip()]
        if deployment.status != "HEALTHY" and lines:
            return f"{name} did not start: {lines[-1].strip()}"
    return f"the application did not start: {state.message}"  # type: ignore[attr-defined]


def _wait_until_serving(address: str, progress: Progress, deadline: float, name: str = APPLICATION) -> None:
    progress("warming up: a first session through every stage")
    with grpc.insecure_channel(address) as channel:
        health, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
        while True:
            try:
                status = health.Check(request, timeout=5, metadata=[("application", name)]).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError as error:
                if time.monotonic() > deadline:
                    raise ServiceStartError(f"{address} does not answer: {error.details()}") from None  # type: ignore[attr-defined]
            if time.monotonic() > deadline:
                raise ServiceStartError(f"the warm-up did not end within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.25)


def hush_ray() -> None:
    """Have Ray print no more, in red, that a process has died: it is meant to, and Ray's log keeps all that is said."""
    from ray._private import worker

    connection: Any = worker.global_worker
    # As ray.shutdown itself does, only before the controller stops and not after.
    with contextlib.suppress(Exception):
        connection.gcs_error_subscriber.close()


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceStartError(
                f"port {port} on {host} cannot be taken: {error.strerror}; choose another"
            ) from None


def _console(config: ServiceConfig) -> str:
    # A browser cannot go to the address that stands for all of a machine's.
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    return f"http://{host}:{config.http_port}/"


def _shown(url: str | None) -> str:
    if url is None:
        return "embedded"
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{'' if ':' in place else ':6379'}{parts.path}"
