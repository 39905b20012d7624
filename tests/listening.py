"""What processes listen on, as the kernel says."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, order=True)
class Socket:
    """A socket that accepts connections.

    Attributes:
        program: the process's own name or title.
    """

    program: str
    address: str
    port: int

    @property
    def on_loopback(self) -> bool:
        address = ipaddress.ip_address(self.address)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


def listening(pid: int) -> list[Socket]:
    """TCP sockets on which a process and its descendants listen."""
    found = set()
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            for socket in one.net_connections("tcp"):
                if socket.status == psutil.CONN_LISTEN:
                    found.add(Socket(one.name(), socket.laddr.ip, socket.laddr.port))
    return sorted(found)
