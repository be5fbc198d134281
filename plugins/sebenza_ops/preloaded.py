"""Importing this preloads what tasks need: a Celery worker does, before it forks (`[celery] extra_celery_config`).

LocalExecutor's workers are forks of the scheduler, which `preload.py` serves as a listener; a Celery worker calls none.
"""

from __future__ import annotations

from sebenza_ops.preload import preload

preload()
