"""Procedures about environments themselves: what a host has, and what the procedures need of it."""
