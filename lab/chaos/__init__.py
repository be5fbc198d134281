"""The fault matrix: deployments that are broken on purpose, in the lab, for real, and judged from outside.

A scenario breaks something at a state that is observed in the estate or in the run, never after a fixed time. What
judges the outcome (lab/checker.py, the load generator, the mailbox) shares no code with the procedures.
"""
