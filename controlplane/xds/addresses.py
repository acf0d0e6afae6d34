"""Which addresses a proxy may be sent to: not those that mean the caller's own pod, its node, or a cloud's secrets."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address

# Where clouds serve credentials; 169.254.169.254 is link-local.
_METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"})
# An IPv4 address stands at their end: RFC 6052, 2.1, and RFC 4291, 2.5.5.1.
_WITH_IPV4 = tuple(ipaddress.IPv6Network(text) for text in ("64:ff9b::/96", "::/96"))


def read(text: str) -> tuple[str, str]:
    """An IP address in its canonical form; or nothing, and why."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return "", f"{text!r:.60} is no IP address"
    plain = getattr(ip, "ipv4_mapped", None) or ip
    meant = [one for one in (plain, _within(plain)) if one is not None]
    if any(map(_is_nobodys, meant)):
        return "", f"{ip}: loopback, link-local, multicast and unspecified ones are never called"
    if any(str(one) in _METADATA for one in meant) or "%" in str(ip):
        return "", f"{ip}: a cloud's metadata service is never called"
    return str(plain), ""


def _is_nobodys(ip: IPv4Address | IPv6Address) -> bool:
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_multicast or ip == IPv4Address(0xFFFFFFFF)


def _within(ip: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that some networks translate an IPv6 address to."""
    if isinstance(ip, IPv4Address) or int(ip) <= 1:  # :: and ::1
        return None
    if any(ip in network for network in _WITH_IPV4):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.sixtofour
