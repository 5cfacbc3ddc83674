"""An app on httpx."""

import os
import sys

import httpx

headers = {"Authorization": os.environ["MOBULA_API_KEY"]}
with httpx.Client(base_url="https://api.mobula.io", headers=headers, timeout=20) as client:
    for path in sys.argv[1:]:
        answer = client.get(path)
        print(answer.text, answer.status_code)
