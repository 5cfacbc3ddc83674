"""The page for operators says of each runtime what these tests tell it."""

import pytest

from table import DOCS
from unmodified.app import APPS

PAGE = DOCS / "unmodified-apps.md"
ROWS = {
    "curl": "curl",
    "requests": "Python requests",
    "httpx": "Python httpx",
    "aiohttp": "Python aiohttp",
    "urllib": "Python urllib",
    "websockets": "Python websockets",
    "fetch": "Node fetch, https",
    "https": "Node fetch, https",
    "java": "Java HttpClient",
}


@pytest.mark.parametrize("name", ROWS)
def test_the_page_names_the_variables_that_a_runtime_looks_at(name: str) -> None:
    app = APPS[name]()
    start = f"| {ROWS[name]} |"
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(start))
    proxy, trust = row.split(" | ")[1:3]
    assert all(f"`{variable}" in proxy for variable in app.proxy)
    assert all(f"`{variable}`" in trust for variable in app.trust)
