"""A hub of our own: a real HTTP server that speaks as much of the Hugging Face hub as fetching files takes.

`GET /api/models/REPO/revision/REV` lists files with sizes and hashes; `REPO/resolve/REV/FILE` gives a small file itself and sends
to another path for a large one, as to a CDN, which serves ranges. It can be told to stall, to cut connections, to change
bytes, to want a token and to fail.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
LARGE = (".safetensors", ".pth", ".bin")
PIECE = 16 * 1024


@dataclass
class HubState:
    """What is on the hub and how it behaves; a test changes it between requests."""

    repos: Mapping[str, dict[str, bytes]]
    endpoint: str = ""
    token: str | None = None
    """Wanted of every request, where set."""
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    """File -> how many more times a byte of it is changed on its way."""
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """File -> after how many bytes each of the next answers ends."""
    stalls_at: dict[str, int] = field(default_factory=dict)
    """File -> after how many bytes its content stops coming, until `go_on` is set."""
    go_on: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    """Answer everything with this."""
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    """(method, path, Range, Authorization)"""

    def ranges(self, name: str) -> list[str | None]:
        """The ranges asked for of a file's content."""
        return [wanted for method, path, wanted, _ in self.requests if method == "GET" and path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubState

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        hub, authorization = self.hub, self.headers.get("Authorization")
        hub.requests.append((self.command, path, self.headers.get("Range"), authorization))
        if hub.status is not None:
            return self._fail(hub.status)
        cdn = re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path)
        if not cdn and hub.token is not None and authorization != f"Bearer {hub.token}":
            return self._fail(401, "RepoNotFound")
        if listed := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            return self._list(*listed.groups())
        if asked := cdn or re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            repo, name = asked.groups()
            content = hub.repos.get(repo, {}).get(name)
            if content is None:
                return self._fail(404, "EntryNotFound")
            if name.endswith(LARGE) and not cdn:
                return self._redirect(repo, name, content)
            return self._serve(name, content, body)
        self._fail(404, "RepoNotFound")

    def _list(self, repo: str, revision: str) -> None:
        if repo not in self.hub.repos:
            return self._fail(404, "RepoNotFound")
        if revision not in ("main", COMMIT) and not re.fullmatch("[0-9a-f]{40}", revision):
            return self._fail(404, "RevisionNotFound")
        siblings = []
        for name, content in self.hub.repos[repo].items():
            size = self.hub.claimed_sizes.get(name, len(content))
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob}
            if name.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append(entry)
        answer = json.dumps({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings}).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": len(answer)})
        self.wfile.write(answer)

    def _redirect(self, repo: str, name: str, content: bytes) -> None:
        etag = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": len(content), "X-Repo-Commit": COMMIT}
        self._head(302, {"Location": f"/cdn/{repo}/{name}", "Content-Length": 0, **linked})

    def _serve(self, name: str, content: bytes, body: bool) -> None:
        start, total = 0, len(content)
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(wanted[1])
            if start >= total:
                return self._fail(416)
        headers: dict[str, Any] = {"Content-Length": total - start, "Accept-Ranges": "bytes", "X-Repo-Commit": COMMIT}
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        self._head(206 if start else 200, headers)
        if body:
            self._send(name, bytearray(content[start:]))

    def _send(self, name: str, content: bytearray) -> None:
        hub = self.hub
        if hub.damaged.get(name):
            hub.damaged[name] -= 1
            content[len(content) // 2] ^= 1
        cuts = hub.cut_after.get(name)
        stop = cuts.pop(0) if cuts else len(content)
        try:
            for place in range(0, stop, PIECE):
                self.wfile.write(content[place : min(place + PIECE, stop)])
                if hub.stalls_at.get(name, stop) <= place:
                    hub.go_on.wait()
        except (BrokenPipeError, ConnectionResetError):
            pass
        if stop < len(content):
            self.close_connection = True

    def _fail(self, status: int, code: str = "") -> None:
        headers = {"Content-Length": 0, **({"X-Error-Code": code} if code else {})}
        self._head(status, headers)

    def _head(self, status: int, headers: Mapping[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


@contextmanager
def hub_of(repos: Mapping[str, dict[str, bytes]]) -> Iterator[HubState]:
    """A hub with these repositories, listening for as long as it is needed."""
    state = HubState(repos)
    handler = type("Handler", (_Handler,), {"hub": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
