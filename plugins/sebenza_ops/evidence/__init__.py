"""Proof: facts gathered by a run, rendered as a report and kept in object storage."""
