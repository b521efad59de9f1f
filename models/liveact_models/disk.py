"""What the disk holds: how much is free, and files that are replaced at once or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

GIB = 1024**3


def free_bytes(folder: Path) -> int:
    """Free on the disk where the folder is or will be."""
    there = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
    return shutil.disk_usage(there).free


def replace_text(path: Path, text: str) -> None:
    """Write the file anew: whoever reads it, or kills this process, finds the old text or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
