"""What a block's decoding and encoding took, as metrics and spans tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liveact_services.observability.tracing import TRACING, now_ns
from liveact_services.replica import measure_stage

if TYPE_CHECKING:
    from liveact_services.conductor.stages import VideoPart


class DecodingWork:
    """One block's: begun when it is asked for."""

    def __init__(self, trace: str, block: int) -> None:
        self._asked = now_ns()
        self._span = TRACING.begin("decode", trace, self._asked, block=block)
        self._decode_s = self._encode_s = 0.0

    def part(self, part: VideoPart, ended_ns: int) -> None:
        """A latent frame was decoded and its frames encoded, one right after the other, up to that moment (unix time)."""
        times = part.times
        self._decode_s += times.decode_s
        self._encode_s += times.encode_s
        between = ended_ns - round(times.encode_s * 1e9)
        frame = part.frames[0].index
        TRACING.record("vae", self._span.trace, between - round(times.decode_s * 1e9), between, frame=frame)
        TRACING.record("media", self._span.trace, between, ended_ns, frame=frame, frames=len(part.frames))

    def end(self, error: BaseException | None = None) -> None:
        """The block is made, or given up."""
        work_s = self._decode_s + self._encode_s
        if error is not None:
            self._span.end(error, work_s=work_s)
            return
        wait_s = measure_stage("decode", self._asked + round(self._encode_s * 1e9), self._decode_s)
        measure_stage("encode", now_ns(), self._encode_s)
        self._span.end(wait_s=wait_s, work_s=work_s)
