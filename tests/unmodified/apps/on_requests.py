"""An app on requests."""

import os
import sys

import requests

with requests.Session() as session:
    session.headers["Authorization"] = os.environ["MOBULA_API_KEY"]
    for path in sys.argv[1:]:
        answer = session.get(f"https://api.mobula.io{path}", timeout=20)
        print(answer.text, answer.status_code)
