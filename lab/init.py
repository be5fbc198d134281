"""The first process of a lab host: adopts its orphans, then becomes the service manager.

Run as `python lab/init.py CONFIG`. A subreaper inherits every process of the host whose
parent has died (a detached remote job, a session of a killed sshd), so the whole
host can be found, and killed, as one tree. The attribute survives execve (prctl(2)).
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Set the attribute and execute supervisord in this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
    os.execv(sys.executable, [sys.executable, "-m", "supervisor.supervisord", "--configuration", sys.argv[1]])


if __name__ == "__main__":
    main()
