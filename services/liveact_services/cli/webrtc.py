"""`liveact webrtc`: a service's faces over WebRTC."""

from __future__ import annotations

import asyncio
import logging
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from liveact_services.cli import options
from liveact_services.cli.exits import BadInput
from liveact_services.cli.output import note
from liveact_services.conductor.stages import Codec

if TYPE_CHECKING:
    from liveact_services.adapters.webrtc.bridge import BridgeRules


def webrtc(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The service.")] = "127.0.0.1:9000",
    portrait: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="The face of viewers that name none: a file, or an avatar, avatars/{id}."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address it listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port; 0: a free one.")] = 8080,
    size: options.Size = None,
    codec: Annotated[Codec, typer.Option(help="How frames travel from the service to here.")] = Codec.H264,
    max_calls: Annotated[int, typer.Option(min=1, help="Viewers at once; each costs an encoder here.")] = 16,
    ice_server: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A STUN or TURN server, as stun:stun.example.com:3478.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="A site whose pages may call it, beside its own.")
    ] = None,
    voice_from: Annotated[float, typer.Option(help="Loudness from which sound is voice, in dB of full scale.")] = -45.0,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Serve https: the certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM.")] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="What viewers without a key of their own call with: it lets everybody in."),
    ] = None,
) -> None:
    """Serve faces over WebRTC: a browser sends a microphone and sees the face, at / and at /whip (WHIP).

    Viewers bring the service's key as a bearer token. Media goes over UDP straight to this process. Needs the extra `webrtc`.
    """
    if find_spec("aiortc") is None:
        raise BadInput(
            "aiortc is not installed; accepted is an environment with the extra: pip install 'liveact-serve[webrtc]'"
        )
    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("a certificate and its key come together", param_hint="--tls-cert, --tls-key")
    from liveact.v1 import avatar_pb2 as pb2
    from liveact_services.adapters.webrtc.bridge import BridgeRules
    from liveact_services.adapters.webrtc.gate import GateRules

    face: bytes | str | None = portrait
    if portrait is not None and not portrait.startswith("avatars/"):
        face = options.read_image(Path(portrait))
    rules = BridgeRules(
        server, face, token or "", options.parse_size(size), pb2.VideoCodec.Value(f"VIDEO_CODEC_{codec.name}"), max_calls,
        tuple(ice_server or ()), tuple(allow_origin or ()), GateRules(voice_from),
    )  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("aioice", "aiortc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    asyncio.run(_serve(rules, host, port, tls_cert, tls_key))


async def _serve(rules: BridgeRules, host: str, port: int, cert: Path | None, key: Path | None) -> None:
    """Until it is interrupted. Raises `BadInput` for a port or a certificate that it cannot have."""
    import uvicorn

    from liveact_services.adapters.webrtc.bridge import Bridge

    bridge = Bridge(rules)
    config = uvicorn.Config(
        bridge.app(), log_level="warning", ssl_certfile=None if cert is None else str(cert),
        ssl_keyfile=None if key is None else str(key),
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:
        raise BadInput(f"{cert}, {key}: no certificate and its key, in PEM ({error.strerror or error})") from None
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise BadInput(f"{host}:{port}: cannot be listened on ({error.strerror or error})") from None
    scheme, where = "http" if cert is None else "https", listening.getsockname()[1]
    note(f"faces of {rules.server} at {scheme}://{host}:{where}; Ctrl-C ends it")
    try:
        await uvicorn.Server(config).serve(sockets=[listening])
    finally:
        await bridge.close()
