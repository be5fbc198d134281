"""Checks inventory files, or prints their JSON Schema, the reference of their fields, or the connections they need.

python -m sebenza_ops.environments check [DIRECTORY]
python -m sebenza_ops.environments schema > include/environments/schema.json
python -m sebenza_ops.environments reference
python -m sebenza_ops.environments connections [DIRECTORY]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sebenza_ops.environments.inventory import inventory_directory, load_inventory
from sebenza_ops.environments.queues import connections_by_place
from sebenza_ops.environments.reference import inventory_reference
from sebenza_ops.environments.schema import inventory_schema


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code: 0 good, 1 a file is bad."""
    parser = argparse.ArgumentParser(prog="python -m sebenza_ops.environments", description="The inventory's files.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="validate every file and print every problem; exit 1 if there is one")
    check.add_argument("directory", nargs="?", type=Path, help="default: SEBENZA_ENVIRONMENTS or include/environments")
    commands.add_parser("schema", help="print the JSON Schema of the files")
    commands.add_parser("reference", help="print the field tables of docs/environments.md")
    connections = commands.add_parser("connections", help="print which connections the workers of each queue need")
    connections.add_argument("directory", nargs="?", type=Path, help="default: as for check")
    options = parser.parse_args(arguments)
    if options.command == "schema":
        sys.stdout.write(inventory_schema())
        return 0
    if options.command == "reference":
        sys.stdout.write(inventory_reference())
        return 0
    if options.command == "connections":
        return _connections(options.directory or inventory_directory())
    return _check(options.directory or inventory_directory())


def _check(directory: Path) -> int:
    inventory = load_inventory(directory)
    for error in inventory.errors.values():
        print(error, file=sys.stderr)
    good = [*inventory.environments, *([inventory.build.name] if inventory.build else [])]
    if not inventory.errors and not inventory.environments:
        print(f"{directory}: no environment is described here (no file of kind environment)", file=sys.stderr)
        return 1
    print(f"{directory}: {len(good)} good ({', '.join(good) or 'none'}), {len(inventory.errors)} bad")
    return 1 if inventory.errors else 0


def _connections(directory: Path) -> int:
    inventory = load_inventory(directory)
    for place, ids in connections_by_place(inventory).items():
        print(f"{place}: {' '.join(ids)}")
    for error in inventory.errors.values():
        print(error, file=sys.stderr)
    return 1 if inventory.errors else 0


if __name__ == "__main__":
    sys.exit(main())
