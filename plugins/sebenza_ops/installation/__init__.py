"""Preparing an Airflow for Sebenza Ops: the metadata database, who may do what, and the ledger's tables."""
