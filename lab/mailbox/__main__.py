"""`python -m lab.mailbox`: run the mailbox until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import uvicorn

from lab.mailbox import smtp
from lab.mailbox.server import create_app
from lab.mailbox.store import Store


async def serve(address: str, http_port: int, smtp_port: int, directory: Path) -> None:
    """Serve both sides on `address` until a signal ends the process."""
    store = Store(directory)
    mail = await smtp.serve(store, address, smtp_port)
    config = uvicorn.Config(
        create_app(store),
        host=address,
        port=http_port,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    try:
        await uvicorn.Server(config).serve()
    finally:
        mail.close()
        await mail.wait_closed()
        store.close()


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m lab.mailbox", description=__doc__)
    parser.add_argument("--listen", required=True, metavar="ADDRESS")
    parser.add_argument("--http-port", type=int, default=8025)
    parser.add_argument("--smtp-port", type=int, default=2525)
    parser.add_argument("--state", type=Path, required=True, metavar="DIRECTORY")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.listen, arguments.http_port, arguments.smtp_port, arguments.state))


if __name__ == "__main__":
    main()
