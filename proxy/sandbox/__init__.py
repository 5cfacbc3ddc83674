"""The sandbox: an emulated Mobula API that is stricter than the real one, for demos and tests.

It enforces every documented limit of the token endpoints, remembers what arrived (the ledger),
and fails on request (faults). Only the command line and the tests import it.
"""

from proxy.sandbox.faults import Fault
from proxy.sandbox.ledger import Ledger
from proxy.sandbox.server import Sandbox

__all__ = ["Fault", "Ledger", "Sandbox"]
