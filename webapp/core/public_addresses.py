"""Which addresses on a network are everybody's, and which others the operator of this site has allowed.

What is neither is not for people to send this site to: its own machine, its neighbours, and what clouds tell their
machines. Knows no names and makes no connections.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.env import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What IPv6 gives out to the public; of it not what is for documentation or stands for an IPv4 address in some way.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_GLOBAL_V6 = [
    ipaddress.IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "3ffe::/16", "5f00::/16")
]
# How a machine with IPv6 only reaches an IPv4 address (RFC 6052): the last 32 bits are that address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What Azure tells its machines, what Oracle does (Python of 3.11 takes some of it for public), old relays from IPv6.
_NOT_GLOBAL_V4 = [
    ipaddress.IPv4Network(network) for network in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24")
]
HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


@dataclass(frozen=True)
class Allowed:
    """What an operator lets people send this site to although it is not public."""

    hosts: frozenset[str] = frozenset()  # all of their addresses
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str], *, variable: str) -> Allowed:
        """`entries`: host names, addresses and networks ("hooks.internal", "10.1.0.7", "10.1.0.0/16").

        Raises SettingsError, which names the `variable` they came from.
        """
        hosts: set[str] = set()
        networks: list[Network] = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                name = entry.rstrip(".").lower()
                # What looks like a misspelt network must not be taken for a name that nobody has.
                if not HOST_NAME.fullmatch(name) or re.fullmatch(r"[\d.]+", name):
                    raise SettingsError(
                        f"{variable} has {entry!r}, which is neither a host name nor an address or network."
                    ) from None
                hosts.add(name)
        return cls(frozenset(hosts), tuple(networks))

    def host(self, name: str) -> bool:
        return name.rstrip(".").lower() in self.hosts

    def address(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def is_public(address: Address) -> bool:
    """Whether it is on the open internet and one machine's."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        # IPv4-mapped addresses are outside, too: nobody's name leads to one for a good reason.
        is_given_out = address in _GLOBAL_V6 and address.scope_id is None
        return is_given_out and not any(address in network for network in _NOT_GLOBAL_V6)
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _NOT_GLOBAL_V4)
