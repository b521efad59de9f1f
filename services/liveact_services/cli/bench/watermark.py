"""`liveact bench watermark`: what the marks cost, and what is left of the invisible one after compression."""

from __future__ import annotations

import io
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from liveact_services.cli import options
from liveact_services.cli.output import Output, note

if TYPE_CHECKING:
    import numpy as np

    from liveact_services.watermark.reading import Found

SESSION = "5d0af7a1c0ffee42"
AGAIN = (23, 28, 33)
"""x264's quality of a second encoding, default preset; 23 is what it does when nobody asks."""
SHIFTS = 100
"""Unmarked pictures that are read for each frame of the first second, each shifted differently."""


def watermark(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="An unmarked recording.")],
    size: options.Size = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of it that are taken.")] = 100,
    json: options.Json = False,
) -> None:
    """Mark a recording's frames, encode them as the service does and once more, and read the invisible mark back."""
    from rich.table import Table

    from liveact_services.watermark.marks import Marks

    pictures = _pictures(video, options.parse_size(size), frames)
    count, height, width, _ = pictures.shape
    note(f"{count} frames of {width}x{height}")
    timed = {
        "visible": _milliseconds(Marks(width, height, label="AI-generated"), pictures),
        "invisible": _milliseconds(Marks(width, height, mark=SESSION), pictures),
    }
    marked = Marks(width, height, mark=SESSION).on(pictures)
    plain_bytes, marked_bytes = _as_served(pictures), _as_served(marked)
    served = _decoded(marked_bytes)
    read: dict[str, Any] = {"as served": _read(served)}
    for quality in AGAIN:
        read[f"again at crf {quality}"] = _read(_decoded(_again(served, quality)))
    tried, false = _false_alarms(pictures)
    result = {
        "width": width, "height": height, "frames": count, "ms_per_frame": timed, "psnr_db": _psnr(pictures, marked),
        "bytes_ratio": round(len(marked_bytes) / len(plain_bytes), 3),
        "read": {name: None if found is None else found.strength for name, (found, _) in read.items()},
        "read_from_one_frame": {name: share for name, (_, share) in read.items()},
        "unmarked_read": tried, "false_alarms": false,
    }  # fmt: skip
    table = Table("", "id read from all frames", "strength", "frames that tell it alone")
    for name, (found, share) in read.items():
        table.add_row(name, "yes" if found else "no", f"{found.strength:.2f}" if found else "", f"{share:.0%}")
    output = Output(json)
    output.show(
        f"visible {timed['visible']} ms a frame, invisible {timed['invisible']} ms; PSNR {result['psnr_db']} dB, "
        f"{result['bytes_ratio']} times the bytes; false alarms {false} of {tried}",
        table,
    )
    output.result(result)


def _pictures(video: Path, size: tuple[int, int], most: int) -> np.ndarray:
    import av
    import numpy as np
    from PIL import Image

    from liveact_services.cli.exits import BadInput

    try:
        with av.open(str(video)) as container:
            decoded = [
                frame.to_ndarray(format="rgb24")
                for frame, _ in zip(container.decode(video=0), range(most), strict=False)
            ]
    except (av.FFmpegError, IndexError) as error:
        raise BadInput(f"{video}: no video ({error}); accepted is a recording") from None
    if size != (0, 0):
        decoded = [np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)) for rgb in decoded]
    return np.stack(decoded)


def _milliseconds(marks: Any, pictures: np.ndarray) -> float:
    """The median frame's."""
    times = []
    for rgb in pictures:
        began = time.perf_counter()
        marks.on(rgb[None])
        times.append(time.perf_counter() - began)
    return round(1000 * sorted(times)[len(times) // 2], 2)


def _psnr(before: np.ndarray, after: np.ndarray) -> float:
    import numpy as np

    error = sum(float(np.mean((a.astype(np.float32) - b) ** 2)) for a, b in zip(before, after, strict=True)) / len(
        before
    )
    return round(10 * float(np.log10(255**2 / error)), 1)


def _as_served(pictures: np.ndarray) -> bytes:
    from liveact_models.timeline import block_frames
    from liveact_services.vae_decoder.encoding import H264Encoder

    encoder = H264Encoder(pictures.shape[2], pictures.shape[1], 20)
    starts = {block_frames(block).start for block in range(len(pictures))}
    return b"".join(encoder.encode(rgb, index, index in starts) for index, rgb in enumerate(pictures))


def _again(pictures: np.ndarray, quality: int) -> bytes:
    import av

    context: Any = av.CodecContext.create("libx264", "w")
    context.height, context.width = pictures.shape[1:3]
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", Fraction(20), Fraction(1, 20)
    context.options = {"crf": str(quality), "x264-params": "log-level=none"}
    packets = []
    for index, rgb in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts = index
        packets += context.encode(frame)
    return b"".join(bytes(packet) for packet in [*packets, *context.encode(None)])


def _decoded(h264: bytes) -> np.ndarray:
    import av
    import numpy as np

    with av.open(io.BytesIO(h264), "r", format="h264") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _read(pictures: np.ndarray) -> tuple[Found | None, float]:
    """What all frames say together, if it is right, and the share of those that say it alone."""
    import numpy as np

    from liveact_services.watermark.mark import votes
    from liveact_services.watermark.payload import digits
    from liveact_services.watermark.reading import found_in

    said = np.stack([votes(rgb) for rgb in pictures])
    found = found_in(said.mean(0), len(pictures))
    right = found is not None and found.session == SESSION[:8]
    return found if right else None, round(float(np.mean([digits(one) == SESSION[:8] for one in said])), 2)


def _false_alarms(pictures: np.ndarray) -> tuple[int, int]:
    """How many unmarked pictures were read, shifted differently each time, and how many of them told an id."""
    import numpy as np

    from liveact_services.watermark.mark import votes
    from liveact_services.watermark.payload import digits

    draw = np.random.default_rng(1)
    chosen = pictures[:20]
    false = sum(
        digits(votes(np.roll(rgb, (int(draw.integers(64)), int(draw.integers(64))), (0, 1)))) is not None
        for rgb in chosen
        for _ in range(SHIFTS)
    )
    return len(chosen) * SHIFTS, false
