"""Passwords and keys of the lab, generated once and kept in its own directory."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
from dataclasses import asdict, dataclass, field
from functools import cache

from lab import paths
from lab.accounts import write_as


def _password() -> str:
    return secrets.token_urlsafe(18)


def _age_identity() -> str:
    done = subprocess.run([str(paths.program("age-keygen"))], capture_output=True, text=True, check=True)
    return next(line for line in done.stdout.splitlines() if line.startswith("AGE-SECRET-KEY-"))


@dataclass(frozen=True)
class LabSecrets:
    """Everything secret that the lab's hosts share with the connections it writes."""

    postgres_superuser: str = field(default_factory=_password)
    replication: str = field(default_factory=_password)
    database_production: str = field(default_factory=_password)
    database_staging: str = field(default_factory=_password)
    database_development: str = field(default_factory=_password)
    cache_production: str = field(default_factory=_password)
    cache_staging: str = field(default_factory=_password)
    cache_development: str = field(default_factory=_password)
    storage_key_id: str = field(default_factory=lambda: "LAB" + secrets.token_hex(8).upper())
    storage_secret: str = field(default_factory=_password)
    slack_token: str = field(default_factory=lambda: "T0LAB/B0LAB/" + secrets.token_hex(12))
    pagerduty_routing_key: str = field(default_factory=lambda: secrets.token_hex(16))
    # CI's own, so that it can be taken away alone; what it may do is up to the server, and the lab's knows no limits.
    storage_ci_key_id: str = field(default_factory=lambda: "LABCI" + secrets.token_hex(8).upper())
    storage_ci_secret: str = field(default_factory=_password)
    # The database hosts' own, for the backups' repository.
    storage_backup_key_id: str = field(default_factory=lambda: "LABBACKUP" + secrets.token_hex(8).upper())
    storage_backup_secret: str = field(default_factory=_password)
    backup_cipher_production: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    backup_cipher_staging: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    attestation_key: str = field(default_factory=lambda: secrets.token_hex(32))
    # age's identities, which open the archives of hosts.
    archive_production: str = field(default_factory=_age_identity)
    archive_staging: str = field(default_factory=_age_identity)

    # The secondary site's own: keys of the first storage open nothing there.
    storage2_key_id: str = field(default_factory=lambda: "LABTWO" + secrets.token_hex(8).upper())
    storage2_secret: str = field(default_factory=_password)
    storage2_backup_key_id: str = field(default_factory=lambda: "LABTWOBACKUP" + secrets.token_hex(8).upper())
    storage2_backup_secret: str = field(default_factory=_password)
    # The operators' age identity, which opens the escrow at the secondary site.
    escrow_identity: str = field(default_factory=_age_identity)
    # TSIG: who may change the records of the environments' zone.
    dns_key: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())

    def storage_keys(self, host: str) -> list[tuple[str, str]]:
        """Key and secret of everybody whom a storage lets in; it knows no limits for them."""
        if host == "storage":
            return [
                (self.storage_key_id, self.storage_secret),
                (self.storage_ci_key_id, self.storage_ci_secret),
                self.storage_backup_key(host),
            ]
        return [(self.storage2_key_id, self.storage2_secret), self.storage_backup_key(host)]

    def storage_backup_key(self, host: str) -> tuple[str, str]:
        """Key and secret with which database hosts reach the backups' repository in a storage."""
        if host == "storage":
            return self.storage_backup_key_id, self.storage_backup_secret
        return self.storage2_backup_key_id, self.storage2_backup_secret

    def database(self, environment: str) -> str:
        """The password of the application's database role in an environment."""
        return str(getattr(self, f"database_{environment}"))

    def archive(self, environment: str) -> str:
        """The age identity of an environment's archives."""
        return str(getattr(self, f"archive_{environment}"))

    def backup_cipher(self, environment: str) -> str:
        """The passphrase that encrypts the backups of an environment."""
        return str(getattr(self, f"backup_cipher_{environment}"))

    def cache(self, environment: str) -> str:
        """The Redis password of an environment."""
        return str(getattr(self, f"cache_{environment}"))


@cache
def lab_secrets() -> LabSecrets:
    """The secrets of this lab: read from its directory, or generated and stored (owner only)."""
    if paths.SECRETS_FILE.exists():
        stored = json.loads(paths.SECRETS_FILE.read_text())
        known = LabSecrets(**stored)
        if asdict(known) != stored:
            # A lab of an older version: what is new was generated just now.
            write_as(paths.SECRETS_FILE, json.dumps(asdict(known), indent=1), mode=0o600)
        return known
    generated = LabSecrets()
    paths.SECRETS_FILE.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(paths.SECRETS_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(generated), file, indent=1)
    return generated
