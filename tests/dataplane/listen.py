"""`python3 listen.py NAME PORT...` answers each TCP connection with one JSON line: NAME, the port that accepted it, and
where it was going before redirection. A program of its own: it runs as other users, under the system's Python."""

import asyncio
import ipaddress
import json
import socket
import struct
import sys

ORIGINAL_DST = 80  # SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST, linux/netfilter_ipv4.h and _ipv6/ip6_tables.h


def original(connection: socket.socket) -> str:
    """Where the client dialled: address and port. Raises OSError in a namespace that tracks no connections."""
    if connection.family == socket.AF_INET6:
        found = connection.getsockopt(socket.IPPROTO_IPV6, ORIGINAL_DST, 28)
        port, packed = struct.unpack("!2xH4x16s4x", found)
    else:
        found = connection.getsockopt(socket.SOL_IP, ORIGINAL_DST, 16)
        port, packed = struct.unpack("!2xH4s8x", found)
    return f"{ipaddress.ip_address(packed)} {port}"


async def listen(name: str, port: int) -> None:
    """Serves one port on every address of both families."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            dialled = original(writer.get_extra_info("socket"))
        except OSError:
            dialled = ""
        said = {"name": name, "port": port, "original": dialled}
        writer.write(json.dumps(said).encode() + b"\n")
        writer.close()

    server = await asyncio.start_server(answer, ["0.0.0.0", "::"], port)
    await server.serve_forever()


async def main(name: str, ports: list[str]) -> None:
    """Serves every port until the process is killed."""
    await asyncio.gather(*(listen(name, int(port)) for port in ports))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
