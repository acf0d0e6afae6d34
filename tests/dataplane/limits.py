"""What Envoy cannot keep of the traffic that passes through a sidecar: the closed list. test_limits.py proves each row,
the transparency tests hold everything else to be unchanged, and docs/transparency.md shows the table.

A row with a `request` is an exchange: what the client sends and the server gets, what it answers and the client gets.
"""

from dataclasses import dataclass

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\n\r\nhi"
PROTO = b"x-forwarded-proto: http\r\n"


@dataclass(frozen=True, slots=True)
class Limit:
    """`arrives` of None: Envoy answers, and the application is not asked."""

    what: str
    becomes: str
    instead: str = ""
    request: bytes = b""
    arrives: bytes | None = None
    answer: bytes = OK
    returns: bytes = OK


def _head(*lines: bytes) -> bytes:
    return b"\r\n".join((*lines, b"", b""))


def _get(*headers: bytes) -> bytes:
    return _head(b"GET / HTTP/1.1", b"Host: web", *headers)


def _refusal(status: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    return _head(b"HTTP/1.1 " + status, *headers) + body


_GET = _get()
_CLOSING = (b"connection: close", b"content-length: 0")
_BAD = _refusal(
    b"400 Bad Request", b"content-length: 11", b"content-type: text/plain", b"connection: close", body=b"Bad Request"
)
_POST = _head(b"POST / HTTP/1.1", b"Host: web", b"Transfer-Encoding: chunked")

EXCHANGES: tuple[Limit, ...] = (
    Limit(
        what="a request without `x-forwarded-proto`",
        becomes="gets `x-forwarded-proto: http`",
        request=_GET,
        arrives=_GET[:-2] + PROTO + b"\r\n",
    ),
    Limit(
        what="a response without `Date`",
        becomes="gets one",
        request=_GET,
        arrives=_GET,
        answer=OK.replace(b"Date: now\r\n", b""),
        returns=OK.replace(b"Date: now", b"date: now"),
    ),
    Limit(
        what="`Host` behind other headers",
        becomes="comes first; all others keep their order",
        request=_head(b"GET / HTTP/1.1", b"X-A: 1", b"Host: web", b"X-B: 2"),
        arrives=_get(b"X-A: 1", b"X-B: 2"),
    ),
    Limit(
        what="a header that comes more than once and may be joined, such as `Accept`, `Via`, `X-Forwarded-For`",
        becomes="comes once, with the values joined by commas; `Cookie`, `Set-Cookie` and unknown ones stay apart",
        request=_get(b"Via: a", b"X-A: 1", b"Via: b", b"X-A: 2", b"Cookie: a", b"Cookie: b"),
        arrives=_get(b"Via: a,b", b"X-A: 1", b"X-A: 2", b"Cookie: a", b"Cookie: b"),
    ),
    Limit(
        what="a header name that comes twice in different case",
        becomes="comes twice in that of the first",
        request=_get(b"X-A: 1", b"x-a: 2"),
        arrives=_get(b"X-A: 1", b"X-A: 2"),
    ),
    Limit(
        what="white space around a header's value, folded lines, lines that end with LF alone",
        becomes="become one space, one line, CRLF",
        request=b"GET / HTTP/1.1\nHost: web\nX-A:  1\t\nX-B: 2\n 3\n\n",
        arrives=_get(b"X-A: 1", b"X-B: 2 3"),
    ),
    Limit(
        what="headers of one hop: `Connection`, `Keep-Alive`, `Proxy-Connection`, `TE` other than `trailers`",
        becomes="end at the sidecar, which decides for its own connections; an upgrade's pass",
        request=_get(b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Proxy-Connection: a", b"TE: gzip"),
        arrives=_GET,
        answer=OK.replace(b"Date", b"Connection: close\r\nDate"),
        returns=OK,
    ),
    Limit(
        what="chunks of a body, and their extensions",
        becomes="may be cut anew; the bytes are the same",
        request=_POST + b"2;a=b\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        arrives=_POST + b"3\r\nabc\r\n0\r\n\r\n",
    ),
    Limit(
        what="names of trailers",
        becomes="become lower case",
        request=_POST + b"2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n",
        arrives=_POST + b"2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n",
    ),
    Limit(
        what="HTTP/1.0",
        becomes="reaches the application as HTTP/1.1, with `host: localhost` if it names none; "
        "the answer is HTTP/1.0 again, and the connection closes after it",
        request=_head(b"GET / HTTP/1.0"),
        arrives=_head(b"GET / HTTP/1.1", b"host: localhost"),
        returns=OK.replace(b"1.1", b"1.0").replace(b"now\r\n", b"now\r\nconnection: close\r\n"),
    ),
    Limit(
        what="the absolute form `GET http://host/path`",
        becomes="becomes `GET /path` with that `Host`",
        instead="list the ports of forward proxies in `opaque-outbound-ports`",
        request=_head(b"GET http://other/a HTTP/1.1", b"Host: web"),
        arrives=_head(b"GET /a HTTP/1.1", b"Host: other"),
    ),
    Limit(
        what="`OPTIONS *`",
        becomes="is answered 404",
        instead="an opaque port",
        request=_head(b"OPTIONS * HTTP/1.1", b"Host: web"),
        returns=_refusal(b"404 Not Found", b"content-length: 0"),
    ),
    Limit(
        what="a request without a body whose method is not GET, HEAD, OPTIONS, TRACE or CONNECT",
        becomes="gets `content-length: 0`",
        request=_head(b"PROPFIND / HTTP/1.1", b"Host: web"),
        arrives=_head(b"PROPFIND / HTTP/1.1", b"Host: web", b"content-length: 0"),
    ),
    Limit(
        what="`x-envoy-…` request headers that give orders to a proxy, such as `x-envoy-upstream-rq-timeout-ms`",
        becomes="are removed, and not obeyed",
        request=_get(b"x-envoy-upstream-rq-timeout-ms: 1", b"x-envoy-retry-on: 5xx", b"x-envoy-other: 1"),
        arrives=_get(b"x-envoy-other: 1"),
    ),
    Limit(
        what="an `Upgrade` to anything but websocket, SPDY/3.1, tcp and what the setting `bootstrap.upgrades` lists",
        becomes="is answered 403",
        instead="`bootstrap.upgrades`",
        request=_get(b"Connection: Upgrade", b"Upgrade: other"),
        returns=_refusal(b"403 Forbidden", *_CLOSING),
    ),
    Limit(
        what="an `Upgrade` to h2c",
        becomes="does not take place: the request passes without it; HTTP/2 with prior knowledge passes",
        request=_get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
        arrives=_GET,
    ),
    Limit(
        what="HTTP/1.1 without `Host`, and a path with a fragment",
        becomes="is answered 400",
        request=_head(b"GET /#a HTTP/1.1", b"Host: web"),
        returns=_refusal(b"400 Bad Request", *_CLOSING),
    ),
    Limit(
        what="a method that no RFC registers",
        becomes="is answered 400",
        instead="an opaque port",
        request=_head(b"FROBNICATE / HTTP/1.1", b"Host: web"),
        returns=_BAD,
    ),
    Limit(
        what="a request with both `Content-Length` and `Transfer-Encoding`",
        becomes="is answered 400",
        request=_head(b"POST / HTTP/1.1", b"Host: web", b"Content-Length: 3", b"Transfer-Encoding: chunked")
        + b"0\r\n\r\n",
        returns=_BAD,
    ),
    Limit(
        what="an answer that is no HTTP, to a request that is",
        becomes="becomes a 502",
        instead="an opaque port",
        request=_GET,
        arrives=_GET,
        answer=b"hello\r\n\r\n",
        returns=_refusal(
            b"502 Bad Gateway",
            b"content-length: 87",
            b"content-type: text/plain",
            body=b"upstream connect error or disconnect/reset before headers. reset reason: protocol error",
        ),
    ),
)

# Rows that are more than one exchange; test_limits.py has a test for each, and test_ingress.py for the two of sidecars.
HALF_CLOSE = Limit(
    what="a client that closes its sending side right after it has sent its request, as `nc -N` does",
    becomes="gets no answer; over other protocols than HTTP it gets one, unless that comes with the first bytes",
    instead="an opaque port",
)
UNTIL_CLOSE = Limit(
    what="a body that ends when the server closes", becomes="is sent on in chunks to an HTTP/1.1 client"
)
EARLY = Limit(
    what="an answer that comes before the end of the request",
    becomes="arrives, and the connection is closed after it",
)
LARGE = Limit(
    what="more than 1,000 headers, or 256 KB of them",
    becomes="is answered 431; in a response, 502",
    instead="an opaque port",
)
DOWN = Limit(
    what="a port of the pod on which nothing listens",
    becomes="answers HTTP with 503, and with `x-mesh-unprocessed` where no sidecar of the caller's removes it; "
    "to TCP, the connection opens and closes, and is not refused",
)
TOLD = Limit(
    what="`x-mesh-unprocessed` in an answer of the application's, `x-mesh-asks-load` in a request of its",
    becomes="are removed: by these headers sidecars tell each other something",
)
LATENCY = Limit(
    what="`endpoint-load-metrics` in an answer of a Service with `load-balancing: latency`",
    becomes="is the sidecars', and ends at the caller's; a replica without a sidecar gets `x-mesh-asks-load: 1`",
)
ADDRESS = Limit(
    what="the caller's address",
    becomes="is the pod's own, to the application",
    instead="mode `tproxy` keeps it",
)
SERVER_FIRST = Limit(
    what="a server that speaks first, on a port that is not opaque",
    becomes="is heard after 0.5 s at each sidecar, which waits for the client's first bytes",
    instead="`opaque-outbound-ports`, `opaque-inbound-ports`",
)
LONG_LINE = Limit(
    what="a request line of more than 16 KB",
    becomes="may pass as plain TCP, 0.5 s later, and from 64 KB on perhaps not at all",
    instead="an opaque port",
)
IDLE = Limit(
    what="an HTTP connection without a request",
    becomes="is closed after an hour; the sidecar's own to the server after 55 s, and opened again",
    instead="an opaque port",
)
SLOW_CONNECT = Limit(
    what="a server that does not accept a connection",
    becomes="is given up after `bootstrap.connectTimeoutSeconds`",
)
BROKEN_OFF = Limit(what="an answer that breaks off", becomes="ends for the client up to a second later at each sidecar")
OTHERS: tuple[Limit, ...] = (
    HALF_CLOSE,
    UNTIL_CLOSE,
    EARLY,
    LARGE,
    DOWN,
    TOLD,
    LATENCY,
    ADDRESS,
    SERVER_FIRST,
    LONG_LINE,
    IDLE,
    SLOW_CONNECT,
    BROKEN_OFF,
)

LIMITS: tuple[Limit, ...] = EXCHANGES + OTHERS
