"""Backups: made, verified, kept, and catalogued."""
