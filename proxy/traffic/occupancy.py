"""How much of the proxy its clients hold, over all listeners, and how much they may. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Occupancy:
    """Counts the clients' connections and the requests being served.

    Each is counted first; then whether there are too many tells what becomes of it.
    """

    most_connections: int
    most_requests: int
    connections: int = 0
    requests: int = 0
    tunnels: int = 0
    """Those of the connections that are blind tunnels."""

    @property
    def too_many_connections(self) -> bool:
        return self.connections > self.most_connections

    @property
    def too_many_requests(self) -> bool:
        return self.requests > self.most_requests
