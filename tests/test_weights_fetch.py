"""Weights from an object store: every byte checked, nothing written outside, nothing fetched twice."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from liveact_services.cluster.fetch import AUTHORIZATION, FetchError, fetch, parse_sums

FILES = {"LiveAct/model.safetensors": b"weights" * 1000, "LiveAct/te xt/tokenizer.json": b"{}"}


class Store(SimpleHTTPRequestHandler):
    """A folder over HTTP that wants a header, and keeps what it was asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.headers.get("Authorization") != "Bearer right":
            self.send_error(403)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in FILES.items()]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A real HTTP server on the folder: its URL, and what it is asked for."""
    asked: list[str] = []
    handler = type("Handler", (Store,), {"asked": asked})
    monkeypatch.setenv(AUTHORIZATION, "Bearer right\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def sums_of(folder: Path) -> str:
    return hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()


def test_every_file_arrives_checked_and_a_second_run_fetches_the_sums_alone(
    folder: Path, store: tuple[str, list[str]], tmp_path: Path
) -> None:
    url, asked = store
    into = tmp_path / "models"
    fetch(f"{url}/?signature=abc", sums_of(folder), into)
    assert {name: (into / name).read_bytes() for name in FILES} == FILES
    assert all(path.endswith("?signature=abc") for path in asked)
    (into / "LiveAct/model.safetensors").write_bytes(b"half")
    asked.clear()
    fetch(url, sums_of(folder), into)
    assert (into / "LiveAct/model.safetensors").read_bytes() == FILES["LiveAct/model.safetensors"]
    assert sorted(asked) == ["/LiveAct/model.safetensors", "/SHA256SUMS"]


def test_a_file_system_of_arrow_serves_as_well(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    fetch(folder.as_uri(), sums_of(folder), tmp_path / "models")
    assert (tmp_path / "models/LiveAct/te xt/tokenizer.json").read_bytes() == b"{}"


def test_a_changed_file_is_refused_and_not_left_here(
    folder: Path, store: tuple[str, list[str]], tmp_path: Path
) -> None:
    (folder / "LiveAct/model.safetensors").write_bytes(b"others")
    with pytest.raises(FetchError, match=r"LiveAct/model\.safetensors: its SHA-256 is "):
        fetch(store[0], sums_of(folder), tmp_path / "models")
    assert not list((tmp_path / "models" / "LiveAct").glob("*model*"))


def test_changed_sums_are_refused_before_anything_is_fetched(
    folder: Path, store: tuple[str, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(FetchError, match="SHA256SUMS: its SHA-256 is"):
        fetch(store[0], "0" * 64, tmp_path / "models")
    assert store[1] == ["/SHA256SUMS"]


def test_a_store_that_refuses_is_named_with_its_answer(
    folder: Path, store: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUTHORIZATION, "Bearer wrong")
    with pytest.raises(FetchError, match="SHA256SUMS: the store answers 403 Forbidden"):
        fetch(store[0], sums_of(folder), tmp_path / "models")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no file"),
        ("abc  file\n", "line 1: expected 64 hexadecimal digits"),
        (f"{'0' * 64}  ../up\n", r"line 1: '\.\./up' leads out of the folder"),
        (f"{'0' * 64}  /etc/passwd\n", "line 1: '/etc/passwd' leads out of the folder"),
    ],
)
def test_wrong_sums_are_refused(text: str, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        parse_sums(text)
