"""The embedded Valkey's parent: a small process that keeps it running exactly as long as its own parent lives.

Run as a script. The first line of stdin is a JSON object of binary, config, data_dir and parent (a process id); when stdin
ends, for whatever reason, Valkey is stopped cleanly. A Valkey that dies in between is started again on the same port. Data that
it cannot read are kept aside, and it starts with what can be read of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

PID_FILE = "valkey.pid"
LOCK_FILE = "valkey.lock"
LOG_FILE = "valkey.log"
"""Where the guard's and Valkey's own output goes."""
DATA_FOLDER = "appendonlydir"
ASIDE = "damaged-"
"""How the folders begin in which damaged data are kept; the time follows."""
EXIT_BUSY = 75
"""Another guard holds the data folder."""

_LOCK_WAIT_S = 12.0
_STOP_WAIT_S = 10.0
_MIN_UPTIME_S = 2.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
"""Before a Valkey that did not live that long, for want of room perhaps, is started again; doubled each time."""
_DAMAGE = re.compile(
    r"# (.*(?:Bad file format reading|Unrecoverable error reading|Unexpected end of file reading|AOF manifest"
    r"|Unable to obtain the AOF file|RDB checksum|Short read or OOM loading|Internal error in RDB).*)"
)
"""What Valkey says before it ends because of data it cannot read."""
_BROKEN_TAIL = re.compile(r"reading the append only file (\S+\.incr\.aof)")


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
        _say(f"stopped the Valkey {orphan.pid} that was left behind")
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return


def _keep_running(binary: str, config: str, data_dir: Path) -> int:
    ran, mended, pause = False, 0, 0.0
    while True:
        log_began, started = _log_size(data_dir), time.monotonic()
        # Signals stay as they are here, where one for a file's size limit is ignored: Valkey then takes it for a full disk.
        valkey = subprocess.Popen([binary, "-"], stdin=subprocess.PIPE, cwd=data_dir, restore_signals=False)
        try:
            assert valkey.stdin is not None
            with suppress(BrokenPipeError):
                valkey.stdin.write(config.encode())
                valkey.stdin.close()
            while valkey.poll() is None:
                if _asked_to_end(0.2):
                    return 0
        finally:
            _stop(valkey)
        lasted, failed = time.monotonic() - started, valkey.returncode > 0
        if failed and mended < 2 and (damage := _damage(data_dir, log_began)):
            if not _mend(binary, data_dir, damage, in_part=mended == 0):
                return 1
            mended += 1
            continue
        if not failed:
            mended = 0
        ran = ran or not failed or lasted >= _MIN_UPTIME_S
        if not ran:
            # Its port is taken, or its folder may not be written: that is for who started us to say.
            return 1
        pause = 0.0 if lasted >= _MIN_UPTIME_S else min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        if _asked_to_end(pause):
            return 0
        _say(f"Valkey ended with {valkey.returncode}; starting it again")


def _asked_to_end(within_s: float) -> bool:
    return bool(select.select([sys.stdin], [], [], within_s)[0])


def _log_size(data_dir: Path) -> int:
    log = data_dir / LOG_FILE
    return log.stat().st_size if log.exists() else 0


def _damage(data_dir: Path, log_began: int) -> str:
    """What Valkey said of data it could not read, since the log had that size; "" where it ended of something else."""
    with suppress(FileNotFoundError), (data_dir / LOG_FILE).open("rb") as log:
        log.seek(log_began)
        if found := _DAMAGE.search(log.read().decode(errors="replace")):
            return found[1]
    return ""


def _mend(binary: str, data_dir: Path, damage: str, *, in_part: bool) -> bool:
    """Keep a copy of the damaged data, and leave of them what can be read. False where there is no room for the copy.

    `in_part`: commands before the damage are kept, if it is in the newest file of commands: they are what the store was a moment
    earlier. Otherwise nothing is: commands without what went before them would leave records in halves.
    """
    data, aside = data_dir / DATA_FOLDER, data_dir / f"{ASIDE}{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        shutil.copytree(data, aside, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        _say(f"the data are damaged ({damage}) and could not be copied aside, so they stay as they are: {error}")
        return False
    tail = _BROKEN_TAIL.search(damage)
    newest = max(data.glob("*.incr.aof"), key=_number, default=None)
    before = sum(file.stat().st_size for file in data.iterdir())
    if not (in_part and tail and newest and newest.name == tail[1] and _cut(binary, newest)):
        shutil.rmtree(data)
    left = sum(file.stat().st_size for file in data.iterdir()) if data.exists() else 0
    _say(f"the data were damaged ({damage}); they are kept in {aside.name}, and {left} of {before} bytes are read")
    return True


def _number(commands: Path) -> int:
    """Of appendonly.aof.12.incr.aof: 12."""
    return int(commands.name.split(".")[-3])


def _cut(binary: str, commands: Path) -> bool:
    """Cut a file of commands off where it is damaged, by Valkey's own tool, which is the same program by another name."""
    tool = ["valkey-check-aof", "--fix", str(commands)]
    return subprocess.run(tool, executable=binary, input=b"y\n", check=False).returncode == 0


def _say(text: str) -> None:
    # The disk of the log may be the one that is full.
    with suppress(OSError):
        os.write(sys.stdout.fileno(), f"guard: {text}\n".encode())


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
