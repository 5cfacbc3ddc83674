"""An app on websockets; it prints three trades of a feed."""

import json
import os

from websockets.sync.client import connect

subscription = {
    "type": "market",
    "authorization": os.environ["MOBULA_API_KEY"],
    "payload": {"subscriptionId": "mine"},
}
with connect("wss://api.mobula.io/", open_timeout=20, close_timeout=20) as socket:
    socket.send(json.dumps(subscription))
    for _ in range(3):
        print(socket.recv(timeout=20))
