"""The embedded Valkey's parent: a small process that keeps it running exactly as long as its own parent lives.

Run as a script. The first line of stdin is a JSON object of binary, config, data_dir and parent (a process id); when stdin
ends, for whatever reason, Valkey is stopped cleanly. A Valkey that dies in between is started again on the same port.
"""

from __future__ import annotations

import fcntl
import json
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import psutil

PID_FILE = "valkey.pid"
LOCK_FILE = "valkey.lock"
EXIT_BUSY = 75
"""Another guard holds the data folder."""

_LOCK_WAIT_S = 12.0
_STOP_WAIT_S = 10.0
_MIN_UPTIME_S = 2.0
"""A Valkey that dies sooner would die again: its port is taken or its data damaged."""


def main() -> int:
    job = json.loads(sys.stdin.readline())
    data_dir = Path(job["data_dir"])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with (data_dir / LOCK_FILE).open("a+") as lock:
        if not _lock(lock, job["parent"]):
            return EXIT_BUSY
        stop_orphan(data_dir)
        return _keep_running(job["binary"], job["config"], data_dir)


def stop_orphan(data_dir: Path) -> None:
    """Stops the Valkey that a killed guard left behind on this folder. The caller holds the folder's lock."""
    pid_file = data_dir / PID_FILE
    try:
        orphan = psutil.Process(int(pid_file.read_text()))
        # The number may be another process's by now.
        if "valkey" not in orphan.name() or Path(orphan.cwd()) != data_dir:
            return
        orphan.terminate()
        try:
            orphan.wait(_STOP_WAIT_S)
        except psutil.TimeoutExpired:
            orphan.kill()
            orphan.wait(_STOP_WAIT_S)
        print(f"guard: stopped the Valkey {orphan.pid} that was left behind", flush=True)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return


def _keep_running(binary: str, config: str, data_dir: Path) -> int:
    while True:
        started = time.monotonic()
        valkey = subprocess.Popen([binary, "-"], stdin=subprocess.PIPE, cwd=data_dir)
        try:
            assert valkey.stdin is not None
            valkey.stdin.write(config.encode())
            valkey.stdin.close()
            while valkey.poll() is None:
                if select.select([sys.stdin], [], [], 0.2)[0]:
                    return 0
        finally:
            _stop(valkey)
        if time.monotonic() - started < _MIN_UPTIME_S:
            return 1
        print(f"guard: Valkey ended with {valkey.returncode}; starting it again", flush=True)


def _stop(valkey: subprocess.Popen[bytes]) -> None:
    if valkey.poll() is not None:
        return
    valkey.terminate()
    try:
        valkey.wait(_STOP_WAIT_S)
    except subprocess.TimeoutExpired:
        valkey.kill()
        valkey.wait()


def _lock(lock: IO[str], parent: int) -> bool:
    """Takes the data folder for a service. Refused at once while another lives; a dead one's guard is waited for."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            if _lives(lock.read()) or time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            lock.truncate(0)
            lock.write(str(parent))
            lock.flush()
            return True


def _lives(pid: str) -> bool:
    try:
        return psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except (ValueError, psutil.NoSuchProcess):
        return False


if __name__ == "__main__":
    sys.exit(main())
