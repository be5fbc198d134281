"""Makes the tables of the Airflow database that the environment variables name. An own process: see `home`."""

from __future__ import annotations


def main() -> None:
    """Migrate."""
    from airflow.utils import db
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded

    providers_configuration_loaded(db.upgradedb)()


if __name__ == "__main__":
    main()
