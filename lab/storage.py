"""The lab's object storage, asked the way its users ask: signed S3 requests over TLS."""

from __future__ import annotations

import subprocess
from typing import Final

from lab import paths
from lab.addresses import STORAGE_PORT, endpoint
from lab.secrets import lab_secrets
from lab.waiting import scaled

BUCKET: Final = "sebenza"
REGION: Final = "us-east-1"


def url() -> str:
    """The endpoint's URL."""
    return f"https://{endpoint('storage', STORAGE_PORT)}"


def answers() -> bool:
    """Whether a signed listing of the bucket's top is answered: what is below is gigabytes in thousands of files."""
    secrets = lab_secrets()
    # Sorted: it is signed as it is.
    query = "delimiter=%2F&list-type=2"
    command = [
        "curl",
        "--silent",
        "--fail",
        "--max-time",
        f"{scaled(5):.0f}",
        "--cacert",
        str(paths.CA_FILE),
        "--config",
        "-",
    ]
    command += ["--aws-sigv4", f"aws:amz:{REGION}:s3", f"{url()}/{BUCKET}?{query}"]
    done = subprocess.run(
        command,
        # The keys by standard input: a command line can be read by every user of the machine.
        input=f'user = "{secrets.storage_key_id}:{secrets.storage_secret}"\n',
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0 and "<ListBucketResult" in done.stdout
