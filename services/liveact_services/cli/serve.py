"""`liveact serve`: start the service and keep it until a signal."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.output import note, print_json, reserved_stdout

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig
    from liveact_services.service import RunningService


@dataclass(frozen=True)
class OwnService:
    """A service that a command started for itself."""

    address: str
    checkpoint: str
    config: ServiceConfig
    startup_s: float
    running: RunningService


def serve(
    config: options.ConfigFile = None,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address of the HTTP port; the gRPC port listens on every address of the machine."),
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="gRPC port; 0 picks a free one.")] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="redis://... of the sessions; none: an embedded Valkey.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the embedded Valkey keeps its files.")] = None,
    settings: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Start the service on this machine.

    Prints one line on stdout once it answers, and runs until SIGINT or SIGTERM:
    LIVEACT READY grpc=HOST:PORT console=http://HOST:PORT/ preset=... checkpoint=... redis=... startup_s=...
    """
    chosen = options.effective_config(
        config, settings, preset=preset, checkpoint=checkpoint, host=host, port=port, redis_url=redis_url,
        data_dir=data_dir,
    )  # fmt: skip
    announce(chosen)
    with reserved_stdout() as stdout:
        started = time.monotonic()
        signal.signal(signal.SIGTERM, _interrupt)
        from liveact_services.service import start_service

        service = start_service(chosen, startup_progress(started))
        try:
            # Before the ready line: who reads it may send a signal at once.
            stopped = stop_on_signal()
            startup_s = time.monotonic() - started
            ready = {
                "grpc": service.address, "console": service.console or "off", "preset": chosen.preset,
                "checkpoint": service.checkpoint, "redis": service.redis, "startup_s": round(startup_s, 1),
            }  # fmt: skip
            if json:
                print_json(ready, stdout)
            else:
                print("LIVEACT READY", *(f"{key}={value}" for key, value in ready.items()), file=stdout, flush=True)
            stopped.wait()
            note("stopping")
        finally:
            service.stop()


@contextmanager
def own_service(
    config: Path | None, settings: list[str] | None, *, preset: str | None, checkpoint: str | None
) -> Iterator[OwnService]:
    """A service of this command's own, on free ports and in a folder that goes with it; stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="liveact-") as folder:
        chosen = options.effective_config(
            config, settings, preset=preset, checkpoint=checkpoint, host="127.0.0.1", port=0, http_port=0,
            data_dir=folder,
        )  # fmt: skip
        announce(chosen)
        started = time.monotonic()
        from liveact_services.service import start_service

        service = start_service(chosen, startup_progress(started))
        try:
            startup_s = time.monotonic() - started
            note(f"ready on {service.address} after {startup_s:.1f} s")
            yield OwnService(service.address, service.checkpoint, chosen, startup_s, service)
        finally:
            note("stopping")
            service.stop()


def announce(config: ServiceConfig) -> None:
    """Say what is about to be started, on stderr."""
    named = config.checkpoint in ("shipped", "untrained")
    weights = f"{config.checkpoint} weights" if named else f"weights of {config.checkpoint}"
    sessions = (
        f"embedded Valkey in {config.data_dir}" if config.redis_url is None else options.hide_password(config.redis_url)
    )
    note(f"starting LiveAct Serve: preset {config.preset}, {weights}, sessions in {sessions}")


def startup_progress(started: float) -> Callable[[str], None]:
    """A callback that prints what has come up, with the seconds since `started` (of `time.monotonic`)."""
    return lambda line: note(f"  {time.monotonic() - started:5.1f} s  {line}")


def stop_on_signal() -> threading.Event:
    """The event that SIGINT or SIGTERM sets from now on; a second signal ends the process the hard way."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return stopped


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
