"""
# Environment files that can't be used

This file makes no DAG. When a file of the inventory (`include/environments`, or the directory in
`SEBENZA_ENVIRONMENTS`) has a mistake, the DAGs of that environment are left out, all others stay, and
this file reports the mistake as Airflow's one import error: which file, line, field, value, and what was
expected. It goes away by itself, at the next parse, when the file is corrected.
"""

from sebenza_ops.environments.inventory import inventory_errors

bad_files = inventory_errors()
if bad_files is not None:
    raise bad_files
