"""What a restored database has against what its manifest says. Pure rules."""

from __future__ import annotations

from collections.abc import Mapping


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """What a restored database's rows differ from its manifest in, one text a table."""
    texts = [
        f"{table}: {found[table]} rows, expected {rows}"
        for table, rows in expected.items()
        if table in found and found[table] != rows
    ]
    texts += [f"{table}: is missing" for table in expected.keys() - found.keys()]
    texts += [f"{table}: was not in the manifest" for table in found.keys() - expected.keys()]
    return sorted(texts)
