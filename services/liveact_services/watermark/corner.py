"""Where a label may stand."""

from typing import Literal

Corner = Literal["bottom-right", "bottom-left", "top-right", "top-left"]
