"""Hosts: the names by which a server may be called, so that a web page cannot reach it under a name of its own.

A page may point its own name at this machine's address, and then its requests are to its own site as far as a browser
can see. They still tell that name in the Host header.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence

_HOST = re.compile(r"(?:\[(?P<bracketed>[0-9a-f:.]+)\]|(?P<name>[^\s:@/?#\[\]]+))(?::\d{0,5})?", re.IGNORECASE)


class Hosts:
    """Which Host headers are right for a server.

    Args:
        bound: the address that it listens on. On this machine's loopback, it may be called localhost or by a loopback
            address; elsewhere also by any address in figures, and by this machine's name.
        allowed: other names; "*" stands for all.
    """

    def __init__(self, bound: str, allowed: Sequence[str] = ()) -> None:
        self._names = {"localhost", _bare(bound), *map(_bare, allowed)}
        self._all = "*" in allowed
        self._local = bound == "localhost" or _is_loopback(bound)
        if not self._local:
            self._names |= {_bare(socket.gethostname())}

    def right(self, header: str) -> bool:
        """Whether a request with this Host header is for this server."""
        if self._all:
            return True
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name = _bare(found["bracketed"] or found["name"])
        if name in self._names:
            return True
        return _is_loopback(name) if self._local else _is_address(name)

    def __str__(self) -> str:
        return ", ".join(sorted(self._names))


def _bare(name: str) -> str:
    return name.strip("[]").rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback
