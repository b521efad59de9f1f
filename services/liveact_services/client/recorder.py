"""Where a stream ends up: an MP4 file, or a pipe that something plays from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal, Self

from liveact.v1 import avatar_pb2 as pb2
from liveact_services.client.decoder import FrameDecoder, decode_frames
from liveact_services.client.muxer import Muxer

__all__ = ["FramePipe", "Mp4Recorder", "decode_frames"]


class Mp4Recorder:
    """Records a session into `path`: H.264 and AAC, each frame lasting 1 / fps.

    Written to `path`.part, which takes its name only when everything went well: after a failure the part file stays,
    complete up to there. A `Sink` for `speak`, and a context manager. `seal` is given the finished part file, to sign it for
    instance, and the session it is of, before the file takes its name.
    """

    def __init__(self, path: Path, seal: Callable[[Path, pb2.Session], None] | None = None) -> None:
        self.path, self._seal = path, seal
        self._session = pb2.Session()
        self.part = path.with_name(path.name + ".part")
        self._muxer: Muxer | None = None

    def open(self, session: pb2.Session) -> None:
        """Start the file. Raises `OSError` when it cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._session = session
        self._muxer = Muxer(str(self.part), "mp4", session, {"movflags": "faststart"})

    def video(self, chunk: pb2.VideoChunk) -> None:
        for frame in chunk.frames:
            self._opened.video(frame)

    def audio(self, span: pb2.AudioSpan) -> None:
        self._opened.audio(span)

    def close(self) -> None:
        """Finish the file and give it its name; without a frame or sound there is none."""
        if self._muxer is not None:
            self._finish()
            if self.part.exists():
                if self._seal is not None:
                    self._seal(self.part, self._session)
                self.part.replace(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self._muxer is not None:
            self._finish()

    def _finish(self) -> None:
        muxer, self._muxer = self._opened, None
        muxer.close()

    @property
    def _opened(self) -> Muxer:
        if self._muxer is None:
            raise RuntimeError(f"{self.path}: nothing is being recorded; open it with a session first")
        return self._muxer


class FramePipe:
    """Plays a session into a pipe while it arrives: MPEG-TS with sound, or bare RGB frames of width * height * 3 bytes.

    A `Sink` for `speak`. Raises `BrokenPipeError` once nobody reads any more.
    """

    def __init__(self, pipe: BinaryIO, kind: Literal["mpegts", "rgb"] = "mpegts") -> None:
        self._pipe, self._kind = pipe, kind
        self._muxer: Muxer | None = None
        self._decoder: FrameDecoder | None = None

    def open(self, session: pb2.Session) -> None:
        if self._kind == "rgb":
            self._decoder = FrameDecoder(session.codec, session.width, session.height)
        else:
            # Every packet leaves at once: this is watched live.
            self._muxer = Muxer(self._pipe, "mpegts", session, {"flush_packets": "1"})

    def video(self, chunk: pb2.VideoChunk) -> None:
        for frame in chunk.frames:
            if self._muxer is not None:
                self._muxer.video(frame)
            elif self._decoder is not None:
                self._pipe.write(self._decoder.decode(frame).tobytes())
        self._pipe.flush()

    def audio(self, span: pb2.AudioSpan) -> None:
        if self._muxer is not None:
            self._muxer.audio(span)

    def close(self) -> None:
        """Flush what is left; the pipe itself stays open."""
        muxer, self._muxer = self._muxer, None
        if muxer is not None:
            muxer.close()
        self._pipe.flush()
