"""Sebenza Ops: an operations manual as running software."""
