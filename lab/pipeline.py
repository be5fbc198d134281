"""What a pipeline of the lab's application would have: addresses, a user of Airflow, and keys of its own."""

from __future__ import annotations

from lab import paths, storage
from lab.airflow.settings import lab_settings
from lab.airflow.users import load_or_create_users
from lab.secrets import lab_secrets


def ci_variables() -> dict[str, str]:
    """The variables of include/ci/deploy.py, secrets among them."""
    settings, secrets = lab_settings(), lab_secrets()
    user = load_or_create_users(settings.users_file)["ci"]
    return {
        "SEBENZA_AIRFLOW_URL": settings.url,
        "SEBENZA_AIRFLOW_USER": user.username,
        "SEBENZA_AIRFLOW_PASSWORD": user.password,
        "SEBENZA_ATTESTATION_KEY": secrets.attestation_key,
        "SEBENZA_STORAGE_ENDPOINT": storage.url(),
        "AWS_ACCESS_KEY_ID": secrets.storage_ci_key_id,
        "AWS_SECRET_ACCESS_KEY": secrets.storage_ci_secret,
        "AWS_CA_BUNDLE": str(paths.CA_FILE),
    }
