"""A TCP proxy that hands on every byte late. Run as `python -m lab.delay_proxy ADDRESS PORT DELAY_SECONDS`.

Prints `listening PORT` when it does. Half of the delay is spent each way. Needs root, for it marks
its own connections so that they are not redirected to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

from lab.network import PROXY_MARK

_CHUNK_BYTES = 65536


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float) -> None:
    """Hand on what is read, each piece `delay_seconds` after it came, in order."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

    async def send() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        while piece := await reader.read(_CHUNK_BYTES):
            await pieces.put((loop.time() + delay_seconds, piece))
    except OSError:
        pass
    await pieces.put((loop.time() + delay_seconds, b""))
    with contextlib.suppress(OSError):
        await sending


async def _serve(target: tuple[str, int], delay_seconds: float) -> None:
    async def handle(client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        upstream = socket.socket()
        upstream.setblocking(False)
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROXY_MARK)
        try:
            await asyncio.get_running_loop().sock_connect(upstream, target)
            reader, writer = await asyncio.open_connection(sock=upstream)
        except OSError:
            upstream.close()
            client_writer.close()
            return
        half = delay_seconds / 2
        await asyncio.gather(_forward(client_reader, writer, half), _forward(reader, client_writer, half))
        for each in (writer, client_writer):
            each.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(f"listening {server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve until killed."""
    host, port, delay_seconds = sys.argv[1:4]
    asyncio.run(_serve((host, int(port)), float(delay_seconds)))


if __name__ == "__main__":
    main()
