"""The certificate and key that sign recordings, looked at before anything is recorded."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from liveact_services.provenance.errors import ProvenanceError

_PURPOSES = {
    ExtendedKeyUsageOID.EMAIL_PROTECTION,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36"),  # document signing
    x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1"),  # C2PA claim signing
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_KEYS = "an EC key on P-256, P-384 or P-521, an Ed25519 key, or an RSA key of 2,048 bits or more"


@dataclass(frozen=True)
class Credentials:
    """A signer: its chain, the leaf first, and its key, as PEM; `repr` shows neither."""

    algorithm: str
    """By C2PA's name."""
    chain: bytes
    key: bytes
    name: str
    """Whom the certificate names."""

    def __repr__(self) -> str:
        return f"Credentials({self.name!r}, {self.algorithm})"

    @classmethod
    def load(cls, cert: Path, key: Path) -> Self:
        """Read both files and see whether C2PA allows signing with them.

        Raises `ProvenanceError` C2PA_CERT or C2PA_KEY that says what is accepted.
        """
        chain_pem, key_pem = _read(cert, "C2PA_CERT"), _read(key, "C2PA_KEY")
        private = _private(key, key_pem)
        try:
            chain = x509.load_pem_x509_certificates(chain_pem)
        except ValueError as error:
            raise _unfit(
                cert, f"no certificates in PEM ({error})", "the signing certificate and those above it"
            ) from None
        leaf = chain[0]
        if leaf.public_key() != private.public_key():
            raise _unfit(cert, f"the first certificate is not that of {key}", "the one whose key signs, first")
        _require_chain(cert, chain)
        _require_profile(cert, leaf)
        names = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        name = str(names[0].value) if names else leaf.subject.rfc4514_string()
        return cls(_algorithm(key, private), chain_pem, key_pem, name)


def _read(path: Path, reason: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProvenanceError(reason, f"{path}: cannot be read ({error.strerror})") from None


def _private(path: Path, pem: bytes) -> Any:
    try:
        return serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise ProvenanceError("C2PA_KEY", f"{path}: the key has a password; accepted is one without") from None
    except ValueError:
        raise ProvenanceError("C2PA_KEY", f"{path}: no private key in PEM; accepted is {_KEYS}") from None


def _algorithm(path: Path, key: Any) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise ProvenanceError("C2PA_KEY", f"{path}: a key of another kind; accepted is {_KEYS}")


def _require_chain(path: Path, chain: list[x509.Certificate]) -> None:
    leaf = chain[0]
    if leaf.issuer == leaf.subject:
        raise _unfit(path, "the certificate has signed itself", "one that an authority has signed")
    for below, above in itertools.pairwise(chain):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature):
            raise _unfit(
                path, f"{above.subject.rfc4514_string()} has not signed what stands before it",
                "a chain in which each certificate has signed the one before",
            ) from None  # fmt: skip
    now = datetime.datetime.now(datetime.UTC)
    for certificate in chain:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise _unfit(
                path, f"{certificate.subject.rfc4514_string()} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}", "one that is valid now",
            )  # fmt: skip


def _require_profile(path: Path, leaf: x509.Certificate) -> None:
    """What C2PA asks of a signing certificate."""
    extensions = leaf.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise _unfit(path, "the first certificate is an authority's", "one that signs content")
    except x509.ExtensionNotFound:
        pass
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is None or not usage.digital_signature:
        raise _unfit(path, "the key usage digitalSignature is missing", "one with it")
    try:
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        purposes = set()
    if not purposes & _PURPOSES or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in purposes:
        raise _unfit(
            path, "the extended key usage allows no content to be signed",
            "emailProtection, documentSigning or C2PA claim signing, and not anyExtendedKeyUsage",
        )  # fmt: skip


def _unfit(path: Path, what: str, accepted: str) -> ProvenanceError:
    return ProvenanceError("C2PA_CERT", f"{path}: {what}; accepted is {accepted}")
