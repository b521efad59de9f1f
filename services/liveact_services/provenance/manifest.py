"""A recording's manifest: made by a model, from which portrait, in which session; into the MP4, signed, and out of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveact_services import __version__
from liveact_services.provenance.credentials import Credentials
from liveact_services.provenance.errors import ProvenanceError, missing

MP4 = "video/mp4"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for what a trained model made."""
RECORDING = "io.liveact.recording"
"""The label of our own assertion."""
NO_THUMBNAILS = {"builder": {"thumbnail": {"enabled": False}}}
"""A small copy of the portrait has no business in every recording."""


@dataclass(frozen=True)
class Recording:
    """What is said of a recording."""

    title: str
    portrait_sha256: str = ""
    """Of the portrait's file; empty where the recorder does not know it."""
    session: str = ""
    """The session's id; empty for what no service made."""
    checkpoint: str = ""
    """Weights that made it."""

    def manifest(self) -> dict[str, Any]:
        """As C2PA's library takes it."""
        agent = {"name": "LiveAct Serve", "version": __version__}
        about = {"session": self.session, "portrait_sha256": self.portrait_sha256, "checkpoint": self.checkpoint}
        action = {"action": "c2pa.created", "digitalSourceType": GENERATED, "softwareAgent": agent}
        return {
            "claim_generator_info": [agent],
            "title": self.title,
            "format": MP4,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
                {"label": RECORDING, "data": {name: value for name, value in about.items() if value}},
            ],
            "ingredients": [self._portrait()] if self.portrait_sha256 else [],
        }

    def _portrait(self) -> dict[str, Any]:
        identity = f"urn:sha256:{self.portrait_sha256}"
        return {
            "title": "portrait",
            "relationship": "inputTo",
            "instance_id": identity,
            "format": "application/octet-stream",
        }


@dataclass(frozen=True)
class Provenance:
    """What a file's manifest says, and whether it holds."""

    state: str
    """"Invalid": changed since it was signed, or signed wrongly; "Valid": whole, by somebody unknown here; "Trusted": whole, by
    somebody under a trust anchor."""
    signer: str
    issuer: str
    algorithm: str
    generator: str
    actions: tuple[str, ...]
    generated: bool
    """Whether it says that a trained model made it."""
    session: str
    portrait_sha256: str
    faults: tuple[str, ...] = field(default=())
    """Codes of what does not hold."""


def sign(path: Path, recording: Recording, credentials: Credentials) -> None:
    """Put the manifest into the MP4 at `path`. Raises `ProvenanceError`, and leaves the file as it was."""
    c2pa = _library()
    signed = path.with_name(path.name + ".signed")
    try:
        info = c2pa.C2paSignerInfo(credentials.algorithm.encode(), credentials.chain, credentials.key, None)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context.from_dict(NO_THUMBNAILS) as context,
            c2pa.Builder(recording.manifest(), context=context) as builder,
            path.open("rb") as source,
            signed.open("w+b") as target,
        ):
            builder.sign(signer, MP4, source, target)
        signed.replace(path)
    except c2pa.C2paError as error:
        raise ProvenanceError("C2PA_REFUSED", f"{path}: {credentials!r} cannot sign it: {error}") from None
    finally:
        signed.unlink(missing_ok=True)


def read(path: Path, anchors: bytes = b"") -> Provenance | None:
    """What the file says of itself; None where it has no manifest. `anchors`: certificates, in PEM, that are trusted.

    Raises `ProvenanceError`, and `OSError` for a file that cannot be read.
    """
    c2pa = _library()
    # Nothing is fetched: neither a manifest that lies elsewhere nor a revocation list.
    settings: dict[str, Any] = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": bool(anchors)}
    }
    if anchors:
        settings["trust"] = {"user_anchors": anchors.decode("utf-8", "replace")}
    with path.open("rb") as file, c2pa.Context.from_dict(settings) as context:
        try:
            with c2pa.Reader(MP4, file, context=context) as reader:
                told, state = json.loads(reader.json()), reader.get_validation_state()
        except c2pa.C2paError.ManifestNotFound:
            return None
        except c2pa.C2paError as error:
            raise ProvenanceError("C2PA_UNREADABLE", f"{path}: {error}") from None
    return _provenance(told, str(state))


def _provenance(told: dict[str, Any], state: str) -> Provenance:
    manifest = told["manifests"][told["active_manifest"]]
    assertions = {one["label"]: one["data"] for one in manifest.get("assertions", [])}
    done = [
        action for label, data in assertions.items() if label.startswith("c2pa.actions") for action in data["actions"]
    ]
    signature, about = manifest.get("signature_info", {}), assertions.get(RECORDING, {})
    generators = manifest.get("claim_generator_info", [{}])
    return Provenance(
        state=state,
        signer=signature.get("common_name", ""), issuer=signature.get("issuer", ""), algorithm=signature.get("alg", ""),
        generator=" ".join(filter(None, (generators[0].get("name"), generators[0].get("version")))),
        actions=tuple(action["action"] for action in done),
        generated=any(action.get("digitalSourceType") == GENERATED for action in done),
        session=about.get("session", ""), portrait_sha256=about.get("portrait_sha256", ""),
        faults=tuple(status["code"] for status in told.get("validation_status", [])),
    )  # fmt: skip


def require_library() -> None:
    """Raises `ProvenanceError` C2PA_MISSING."""
    _library()


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise missing() from None
    return c2pa
