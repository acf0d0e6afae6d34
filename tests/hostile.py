"""Texts that mean something where others are put together: in JSON, YAML, a shell, a command line, the kubelet."""

HOSTILE = (
    '"}},"admin":{"address":{"socket_address":{"address":"0.0.0.0","port_value":9901}}},"x":{"y":"',
    "x\n--admin-address-path\n/tmp/x",
    "--config-path=/tmp/evil.json",
    "$(POD_NAME)",
    "$$(POD_NAME)",
    "$(SERVICE_ACCOUNT)$(SECRET)",
    "}{",
    "'; iptables -F; '",
    "a\\",
    "\u0000",
    "${HOME}`id`",
    "a\tb",
    "\N{LEFT DOUBLE QUOTATION MARK}\N{SNOWMAN}\N{RIGHT-TO-LEFT OVERRIDE}",
)
