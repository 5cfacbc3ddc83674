"""An app on Python's own urllib."""

import os
import sys
from urllib.request import Request, urlopen

for path in sys.argv[1:]:
    request = Request(f"https://api.mobula.io{path}")
    request.add_header("Authorization", os.environ["MOBULA_API_KEY"])
    with urlopen(request, timeout=20) as answer:
        print(answer.read().decode(), answer.status)
