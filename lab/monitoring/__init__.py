"""Monitoring of the lab: the product's Prometheus and Alertmanager templates, filled in for the lab."""

from lab.monitoring.configuration import render

__all__ = ["render"]
