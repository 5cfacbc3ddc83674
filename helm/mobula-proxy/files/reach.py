"""Call a gateway as its clients do, and expect an answer that the proxy itself makes.

It shows that the name, the Service and the NetworkPolicy lead to a proxy that is ready, without a
client's credential and without spending a token. Takes http or https, host and port.
"""

import http.client
import ssl
import sys

scheme, host, port = sys.argv[1:]
if scheme == "https":
    # Nothing is sent that an impostor could use, and the certificate may be of a CA of your own.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
else:
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
connection.request("GET", "/api/2/auth/tokens")
answer = connection.getresponse()
code = answer.getheader("X-Mobula-Proxy-Error")
sys.stdout.write(f"{scheme}://{host}:{port} answers {answer.status} {code or '(not the proxy)'}\n")
sys.exit(0 if code else 1)
