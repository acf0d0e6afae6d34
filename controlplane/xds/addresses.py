"""Which addresses a proxy may be sent to: not those that mean the caller's own pod, its node, or a cloud's secrets."""

import ipaddress

# Where clouds serve credentials; 169.254.169.254 is link-local.
_METADATA = frozenset({"fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"})


def read(text: str) -> tuple[str, str]:
    """An IP address in its canonical form; or nothing, and why."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return "", f"{text!r:.60} is no IP address"
    plain = getattr(ip, "ipv4_mapped", None) or ip
    if plain.is_loopback or plain.is_link_local or plain.is_unspecified or plain.is_multicast:
        return "", f"{ip}: loopback, link-local, multicast and unspecified ones are never called"
    if str(plain) in _METADATA or "%" in str(ip):
        return "", f"{ip}: a cloud's metadata service is never called"
    return str(plain), ""
