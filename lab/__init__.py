"""The lab: the whole estate of Sebenza Ops on one machine, with real servers."""

import os
import sys
from pathlib import Path

# The lab's accounts read what its programs write, whatever the umask of the person at the terminal; what is private
# is written with a mode of its own.
os.umask(0o022)

# `python -m lab` works from a plain checkout: the product's package lies in plugins, where Airflow looks for it.
_PLUGINS = str(Path(__file__).resolve().parent.parent / "plugins")
if _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)
