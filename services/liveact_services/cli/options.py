"""Options that several commands share, and what their text means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli.exits import BadInput

if TYPE_CHECKING:
    from liveact_services.config import ServiceConfig

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A YAML configuration.")]
Preset = Annotated[str | None, typer.Option(help="Size of the model: tiny or soulx-liveact-18b.")]
Checkpoint = Annotated[str | None, typer.Option(help="A checkpoint folder, `shipped` or `untrained`.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any field of the configuration, as denoiser.replicas=2."),
]
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="The portrait: PNG, JPEG or WebP.")]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Picture size in pixels, multiples of 16.")]
Prompt = Annotated[str, typer.Option(help="What is seen and how the person acts.")]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Fixes every random draw.")]
VisibleWatermark = Annotated[
    bool, typer.Option("--visible-watermark", help="Words in a corner of the picture that say how it was made.")
]
InvisibleWatermark = Annotated[
    bool, typer.Option("--invisible-watermark", help="Hide an id in the pictures, which `liveact verify` finds.")
]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads.")]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="LIVEACT_TOKEN", metavar="KEY", help="API key or JWT; better in the environment: others see options."
    ),
]


def effective_config(file: Path | None, settings: list[str] | None, **overrides: Any) -> ServiceConfig:
    """File < environment < `--set` < the command's own options. Raises `ConfigError` or `typer.BadParameter`."""
    from liveact_services.config import load_config

    fields = parse_settings(settings or [])
    fields.update({name: value for name, value in overrides.items() if value is not None})
    return load_config(file, **fields)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """["denoiser.replicas=2", "port=9001"] -> {"denoiser": {"replicas": 2}, "port": 9001}; values are read as YAML."""
    import yaml

    fields: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not all(key.split(".")):
            raise typer.BadParameter(f"{setting!r}: expected KEY=VALUE or KEY.SUB=VALUE", param_hint="--set")
        *tables, name = key.split(".")
        table = fields
        for part in tables:
            table = table.setdefault(part, {})
        try:
            table[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            table[name] = text
    return fields


def parse_size(size: str | None) -> tuple[int, int]:
    """ "512x384" -> (512, 384); None -> (0, 0), the preset's default."""
    if size is None:
        return 0, 0
    width, separator, height = size.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{size!r}: expected WIDTHxHEIGHT, as 512x512", param_hint="--size")
    return int(width), int(height)


def read_image(path: Path) -> bytes:
    """The file's bytes. Raises `BadInput`; whether it is a portrait is for the model to say."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def hide_password(url: str) -> str:
    """The URL with its password, if any, as ***."""
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@", 1)))
