"""HTTP/2 by hand, at either end of a connection: what is sent, and what arrives."""

import socket
from typing import TypeVar

import h2.config
import h2.connection
import h2.events

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"web"),
    (b":path", b"/a/../b//c"),
    (b"content-type", b"application/x"),
    (b"x-under_score", b"1"),
    (b"te", b"trailers"),
    (b"x-repeated", b"1"),
    (b"x-repeated", b"2"),
]

E = TypeVar("E", bound=h2.events.Event)


class Http2:
    """One end of an HTTP/2 connection."""

    def __init__(self, end: socket.socket, *, client: bool) -> None:
        self.end = end
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.flush()

    def flush(self) -> None:
        self.end.sendall(self.h2.data_to_send())

    def next(self, kind: type[E]) -> E:
        """The next event of that kind, once it is there; others before it are passed over."""
        while True:
            for event in list(self.events):
                self.events.remove(event)
                if isinstance(event, kind):
                    return event
            self.events += self.h2.receive_data(self.end.recv(65536))
            self.flush()
