"""`python -m lab.load`: load on the lab's load balancers, and a report."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from lab import addresses, paths
from lab.load.capacity import measure
from lab.load.generator import LoadGenerator
from lab.waiting import LabError

SHOWN_FAILURES = 5


def main() -> int:
    """Send the load that the command line describes; the exit code is 1 when a request failed."""
    parser = argparse.ArgumentParser(prog="python -m lab.load", description=__doc__)
    parser.add_argument("--rate", type=float, default=100, help="requests a second over all load balancers")
    parser.add_argument("--fresh-share", type=float, default=0.2, help="share of requests on connections of their own")
    parser.add_argument("--write-share", type=float, default=0.05, help="share of POST requests")
    parser.add_argument("--duration", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--connections", type=int, default=8, help="keep-alive connections to each load balancer")
    parser.add_argument("--timeout", type=float, default=10, metavar="SECONDS", help="of one request")
    parser.add_argument("--lb", action="append", metavar="HOST", help="a host of the lab; default lb1 and lb2")
    parser.add_argument("--hostname", default="app.sebenza.com", help="Host header and TLS server name")
    parser.add_argument("--ca", type=Path, default=paths.CA_FILE, metavar="FILE")
    parser.add_argument("--path", action="append", default=[], help="read this path instead of the manual's mix")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the whole report there as JSON")
    parser.add_argument(
        "--measure",
        type=float,
        metavar="RATE",
        help="send nothing else: measure what production serves while Airflow works, up to this many requests a second",
    )
    arguments = parser.parse_args()
    if arguments.measure is not None:
        return _measure(arguments.measure)
    hosts = arguments.lb or ["lb1", "lb2"]
    load = LoadGenerator(
        load_balancers={host: (addresses.address(host), addresses.HTTPS_PORT) for host in hosts},
        ca_file=arguments.ca,
        rate=arguments.rate,
        fresh_share=arguments.fresh_share,
        write_share=arguments.write_share,
        duration_seconds=arguments.duration,
        connections=arguments.connections,
        timeout_seconds=arguments.timeout,
        hostname=arguments.hostname,
        request_paths=arguments.path,
    )
    with load:
        report = load.wait()
    if arguments.report:
        report.write(arguments.report)
    summary = report.summary()
    shown = {key: value for key, value in summary.items() if key not in ("failures", "per_second", "histogram")}
    print(json.dumps(shown, indent=1))
    for failure in report.failures[:SHOWN_FAILURES]:
        print(json.dumps(failure._asdict()), file=sys.stderr)
    if report.failed > SHOWN_FAILURES:
        print(f"... and {report.failed - SHOWN_FAILURES} more failures; --report FILE keeps all", file=sys.stderr)
    return 1 if report.failed else 0


def _measure(enough: float) -> int:
    try:
        capacity = measure(enough, lambda line: print(line, file=sys.stderr, flush=True))
    except LabError as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"per_second": capacity.per_second, "steps": [asdict(step) for step in capacity.steps]}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
