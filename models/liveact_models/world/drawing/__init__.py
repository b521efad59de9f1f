"""The painter of portraits: one module a part of the picture, all on one skia canvas measured in hundredths."""

from __future__ import annotations

from liveact_models.training import MissingExtra

try:
    import skia  # noqa: F401
except ImportError as error:
    raise MissingExtra("skia-python") from error
