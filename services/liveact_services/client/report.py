"""What a client saw of a stream: times, rates, and how a viewer would have fared."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.resuming import Outage
from liveact_services.client.viewer_clock import ViewerClock

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class StreamReport:
    """One stream, measured at the client. Times in seconds, NaN-free: what never happened is None."""

    session: str
    checkpoint: str
    width: int
    height: int
    fps_asked: int
    """Frames a second of the picture's own clock."""
    ready_s: float | None
    """Config sent -> READY."""
    first_frame_s: float | None
    """First voice byte sent -> first frame of that utterance received."""
    frames: int
    fps: float | None
    """Frames a second as they arrived: those after the first message, over the time since it."""
    realtime_factor: float | None
    """Seconds from the first voice byte to the last frame, per second of video; at speaking pace at least about 1."""
    busy_factor: float | None
    """Seconds of work the server reports, all stages together, per second of video; stages overlap, so it may pass the
    realtime factor."""
    interarrival_p50_s: float | None
    interarrival_p95_s: float | None
    """Time between video messages."""
    playout_delay_s: float
    stalls: int
    stall_s: float
    """Underruns of a viewer who starts `playout_delay_s` after the first frame, and how long they lasted together."""
    video_s: float
    audio_s: float
    """Picture and sound received, on their own clocks."""
    voice_s: float
    """Voice sent."""
    reconnections: int = 0
    outage_s: float = 0.0
    """Times the connection broke and the session went on, and how long it was away together."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, times rounded to 0.1 ms."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}

    def table(self, title: str) -> Table:
        """The figures for people."""
        from rich.table import Table

        def seconds(value: float | None) -> str:
            return "-" if value is None else f"{value:.3f} s"

        table = Table("figure", "value", title=title, title_justify="left")
        table.add_row("picture", f"{self.width}x{self.height} at {self.fps_asked} fps, {self.checkpoint} weights")
        table.add_row("ready after", seconds(self.ready_s))
        table.add_row("first frame after first voice", seconds(self.first_frame_s))
        table.add_row("frames received", str(self.frames))
        table.add_row("frames a second", "-" if self.fps is None else f"{self.fps:.2f}")
        table.add_row("realtime factor", "-" if self.realtime_factor is None else f"{self.realtime_factor:.3f}")
        table.add_row("server's work per second of video", seconds(self.busy_factor))
        table.add_row(
            "between messages, p50 / p95", f"{seconds(self.interarrival_p50_s)} / {seconds(self.interarrival_p95_s)}"
        )
        table.add_row(
            f"viewer's stalls ({self.playout_delay_s:.2f} s buffer)", f"{self.stalls}, {self.stall_s:.3f} s in all"
        )
        table.add_row("video / sound / voice", f"{self.video_s:.2f} s / {self.audio_s:.2f} s / {self.voice_s:.2f} s")
        if self.reconnections:
            table.add_row("connection broken", f"{self.reconnections} times, {self.outage_s:.3f} s in all")
        return table


@dataclass
class StreamMeter:
    """Notes a stream's moments, in seconds of `time.perf_counter`, and sums them up."""

    utterance_id: str
    config_at: float = field(default_factory=time.perf_counter)
    ready_at: float | None = None
    voice_at: float | None = None
    first_frame_at: float | None = None
    voice_s: float = 0.0
    sound_bytes: int = 0
    work_us: int = 0
    _arrivals: list[float] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    def voice(self, seconds: float) -> None:
        """This much voice is sent now."""
        if self.voice_at is None:
            self.voice_at = time.perf_counter()
        self.voice_s += seconds

    def video(self, chunk: pb2.VideoChunk, arrived: float) -> None:
        """These frames arrived."""
        if self.first_frame_at is None and any(f.utterance_id == self.utterance_id for f in chunk.frames):
            self.first_frame_at = arrived
        work = chunk.times
        self.work_us += work.audio_us + work.denoise_us + work.decode_us + work.encode_us
        self._arrivals.append(arrived)
        self._counts.append(len(chunk.frames))

    def sound(self, span: pb2.AudioSpan) -> None:
        """This sound arrived."""
        self.sound_bytes += len(span.data)

    @property
    def frames(self) -> int:
        return sum(self._counts)

    def report(self, session: pb2.Session, outages: Sequence[Outage] = ()) -> StreamReport:
        """The stream so far, and the outages it had."""
        arrivals, counts = self._arrivals, self._counts
        frames = sum(counts)
        delay = session.playout_delay.ToTimedelta().total_seconds()
        stalls, stall_s = viewer_stalls(arrivals, counts, session.fps, delay)
        gaps = np.diff(arrivals)
        flowed = arrivals[-1] - arrivals[0] if len(arrivals) > 1 else 0.0
        video_s = frames / session.fps
        voice_at = self.voice_at
        return StreamReport(
            session=session.name,
            checkpoint=session.checkpoint,
            width=session.width,
            height=session.height,
            fps_asked=session.fps,
            ready_s=_since(self.config_at, self.ready_at),
            first_frame_s=_since(voice_at, self.first_frame_at),
            frames=frames,
            fps=(frames - counts[0]) / flowed if flowed > 0 else None,
            realtime_factor=(arrivals[-1] - voice_at) / video_s if arrivals and voice_at is not None else None,
            busy_factor=self.work_us / 1e6 / video_s if self.work_us and frames else None,
            interarrival_p50_s=float(np.percentile(gaps, 50)) if len(gaps) else None,
            interarrival_p95_s=float(np.percentile(gaps, 95)) if len(gaps) else None,
            playout_delay_s=delay,
            stalls=stalls,
            stall_s=stall_s,
            video_s=video_s,
            audio_s=self.sound_bytes / 2 / session.audio_format.sample_rate_hz,
            voice_s=self.voice_s,
            reconnections=len(outages),
            outage_s=sum(outage.seconds for outage in outages),
        )


def viewer_stalls(arrivals: Sequence[float], counts: Sequence[int], fps: float, delay: float) -> tuple[int, float]:
    """Underruns and their summed seconds, for a viewer who starts `delay` seconds after the first message.

    `arrivals`: when each message came, in seconds; `counts`: its frames. A frame that is late stops the picture until it
    is there, and everything after it is shown that much later.
    """
    clock = ViewerClock(fps, delay)
    for arrived, count in zip(arrivals, counts, strict=True):
        clock.came(count, arrived)
    return clock.stalls, clock.stalled_s


def _since(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
