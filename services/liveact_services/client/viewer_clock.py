"""When a viewer shows what: each frame when it is due, and everything after a late one that much later."""

from __future__ import annotations


class ViewerClock:
    """A viewer's picture, which starts some time after its first frames came. Times in seconds, on any one clock."""

    def __init__(self, fps: float, delay: float) -> None:
        """`delay`: from the first frames' arrival to their showing, what the session calls its playout delay."""
        self._fps, self._delay = fps, delay
        self._first: float | None = None
        self._frames = 0
        self.stalls = 0
        """How often the picture stood still because its next frame was not there."""
        self.stalled_s = 0.0
        """For how long, in all."""

    @property
    def due(self) -> float | None:
        """When the next frame is to be there; None before the first."""
        return None if self._first is None else self._first + self._delay + self._frames / self._fps + self.stalled_s

    def came(self, frames: int, arrived: float) -> float:
        """The next so many frames came at that moment; gives how long the picture had stood still for them, mostly 0."""
        if self._first is None:
            self._first = arrived
        due = self.due
        assert due is not None
        late = max(0.0, arrived - due)
        if late:
            self.stalls += 1
            self.stalled_s += late
        self._frames += frames
        return late
