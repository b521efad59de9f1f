"""What a block costs, in numbers and as tables."""

from __future__ import annotations

import dataclasses
import math
import statistics
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from liveact_models.hardware import hardware
from liveact_services.cli.bench.blocks import add_times, figures, significant
from liveact_services.config import SessionLimits

if TYPE_CHECKING:
    from rich.table import Table

    from liveact_models.ceilings import Ceilings
    from liveact_models.config import ModelConfig
    from liveact_services.cli.bench.block.roofline import Part
    from liveact_services.cli.bench.block.subject import PartSeconds

MAX_UTILISATION = SessionLimits().max_utilisation


@dataclasses.dataclass(frozen=True)
class BlockFigures:
    """What was measured of a later block."""

    config: ModelConfig
    size: tuple[int, int]
    device: str
    engine: str
    threads: int
    seconds: PartSeconds
    in_series_s: list[float]
    overlapped_s: list[float]
    ceilings: Ceilings
    parts: list[Part]
    state_bytes: int
    weights_bytes: int

    @property
    def period_s(self) -> float:
        """From block to block, overlapped."""
        return statistics.median(self.overlapped_s)

    def to_dict(self) -> dict[str, Any]:
        import torch

        from liveact_models.timeline import BLOCK_FRAMES
        from liveact_services.cli.bench.block.subject import FPS

        video_s = BLOCK_FRAMES / FPS
        return {
            "preset": self.config.name, "layers": self.config.transformer.num_layers, "size": list(self.size),
            "device": self.device, "engine": self.engine, "threads": self.threads, "blocks": len(self.overlapped_s),
            "in_series_ms": figures(self.in_series_s), "overlapped_ms": figures(self.overlapped_s),
            "fps": round(BLOCK_FRAMES / self.period_s, 3), "realtime_factor": round(self.period_s / video_s, 4),
            "sessions_at_realtime": math.floor(MAX_UTILISATION * video_s / self.period_s),
            "first_frame_ms": figures(self.seconds.first_frame),
            "parts": [part.to_dict() for part in self.parts],
            "ceilings": {name: significant(value) for name, value in dataclasses.asdict(self.ceilings).items()},
            "session_mib": round(self.state_bytes / 2**20, 2), "transformer_mib": round(self.weights_bytes / 2**20, 2),
            "torch": torch.__version__, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "hardware": hardware(),
        }  # fmt: skip

    def tables(self) -> tuple[Table, Table]:
        from rich.table import Table

        values, (width, height) = self.to_dict(), self.size
        title = f"{self.config.name}, {values['layers']} layers at {width}x{height} on {self.device}: {self.engine}"
        block = Table("a block of 32 frames", "median", "lowest to highest", title=title, title_justify="left")
        for name, key in (
            ("one part after the other", "in_series_ms"), ("decoding beside denoising", "overlapped_ms"),
            ("first encoded frame after its sound", "first_frame_ms"),
        ):  # fmt: skip
            add_times(block, name, values[key])
        block.add_section()
        factor, bound = f"realtime factor {values['realtime_factor']}", f"at {MAX_UTILISATION:.0%} of the device"
        block.add_row("frames a second, overlapped", f"{values['fps']:.2f}", factor)
        block.add_row("sessions at 20 frames a second", str(values["sessions_at_realtime"]), bound)
        weights = f"transformer {values['transformer_mib']:.0f} MiB"
        block.add_row("memory of a session", f"{values['session_mib']:.1f} MiB", weights)
        return block, self._roof(values)

    @staticmethod
    def _roof(values: dict[str, Any]) -> Table:
        from rich.table import Table

        most = values["ceilings"]
        roof = Table(
            "part", "ms a block", "TFLOP/s", "of arithmetic", "of memory", "bound by", title_justify="left",
            title=f"ceilings, measured here: {most['tflop_per_s']} TFLOP/s, {most['gb_per_s']} GB/s",
        )  # fmt: skip
        for part in values["parts"]:
            rate = "-" if not part["tflop"] else f"{part['tflop_per_s']:.3g}"
            roof.add_row(
                part["part"], f"{part['ms']:.1f}", rate, f"{part['of_arithmetic']:.0%}", f"{part['of_memory']:.0%}",
                part["bound"] if part["tflop"] else "-",
            )  # fmt: skip
        return roof
