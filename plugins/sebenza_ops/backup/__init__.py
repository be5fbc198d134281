"""Backups: what is kept of an environment, where, how it is verified, and for how long."""
