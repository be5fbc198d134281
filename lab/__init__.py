"""The lab: the whole estate of Sebenza Ops on one machine, with real servers."""

import sys
from pathlib import Path

# `python -m lab` works from a plain checkout: the product's package lies in plugins, where Airflow looks for it.
_PLUGINS = str(Path(__file__).resolve().parent.parent / "plugins")
if _PLUGINS not in sys.path:
    sys.path.append(_PLUGINS)
