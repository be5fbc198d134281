"""The lab's certificate authority, server certificates and SSH keys."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab import paths

_LIFETIME = dt.timedelta(days=825)
_CA_LIFETIME = dt.timedelta(days=3650)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, replacing an older one atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sebenza lab"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def ensure_ca() -> None:
    """Create the lab's certificate authority unless it exists."""
    key_file = paths.CA_DIR / "ca.key"
    if key_file.exists() and paths.CA_FILE.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name("Sebenza lab CA"))
        .issuer_name(_name("Sebenza lab CA"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    write_private(key_file, _pem(key))
    paths.CA_FILE.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def ensure_certificate(directory: Path, name: str, dns_names: list[str], addresses: list[str]) -> None:
    """Create `<name>.key`, `<name>.crt` and `<name>.pem` (both, as HAProxy wants) unless they are there.

    One for other names is replaced. The certificate is for the given names and addresses, signed by the lab's
    authority.
    """
    combined = directory / f"{name}.pem"
    if combined.exists() and _dns_names(directory / f"{name}.crt") == dns_names:
        return
    directory.mkdir(parents=True, exist_ok=True)
    ca_key = serialization.load_pem_private_key((paths.CA_DIR / "ca.key").read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    ca = x509.load_pem_x509_certificate(paths.CA_FILE.read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    names: list[x509.GeneralName] = [x509.DNSName(dns_name) for dns_name in dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(dns_names[0]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    write_private(directory / f"{name}.key", _pem(key))
    (directory / f"{name}.crt").write_bytes(public)
    write_private(combined, public + _pem(key))


def _dns_names(certificate: Path) -> list[str]:
    extensions = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def ensure_ssh_key(path: Path, comment: str) -> str:
    """Create an ed25519 key pair at `path` unless it exists; the public key, without comment."""
    public_file = path.with_name(path.name + ".pub")
    if not path.exists() or not public_file.exists():
        key = ed25519.Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        write_private(path, private)
        public_file.write_text(f"{public.decode()} {comment}\n")
    return " ".join(public_file.read_text().split()[:2])
