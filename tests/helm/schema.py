"""The schema of the chart's values: its own part is written by hand, `config` is the proxy's.

As a program it takes the proxy's part over into the chart, as `make schema` does.
"""

import json
import re
from typing import Any

from helm.engine import CHART
from proxy.config import json_schema

FILE = CHART / "values.schema.json"
ROOT = "Settings"
_LOOKS = re.compile(r"\(\?<?[=!]")

_DECIDED = {
    ROOT: ("role", "state_dir", "api_key", "listeners", "admin", "clients_file"),
    "StoreSettings": ("url", "secret"),
}
"""What the chart decides. Templates refuse these, with better texts than a schema has."""


def settings_definitions() -> dict[str, Any]:
    """Return the proxy's schema as definitions of a draft-7 schema, each by its name."""
    text = json_schema().replace("#/$defs/", "#/definitions/")
    schema = json.loads(text, object_hook=_of_go)
    del schema["$schema"]
    definitions: dict[str, Any] = {ROOT: schema, **schema.pop("$defs")}
    for name, decided in _DECIDED.items():
        definitions[name]["properties"] |= {each: {} for each in decided}
    return dict(sorted(definitions.items()))


def _of_go(schema: dict[str, Any]) -> dict[str, Any]:
    """Helm's regular expressions cannot look around: without that they let a little more through.

    The proxy itself then says what is wrong.
    """
    pattern = schema.get("pattern")
    return {**schema, "pattern": blind(pattern)} if isinstance(pattern, str) else schema


def blind(pattern: str) -> str:
    """Return a regular expression without what looks ahead or behind."""
    kept, looking = "", 0
    for part in re.findall(r"\\.|\[(?:\\.|[^\]])*\]|\(\?<?[=!]|\(|\)|.", pattern):
        opens = part.startswith("(")
        if looking or _LOOKS.fullmatch(part):
            looking += opens - (part == ")")
        else:
            kept += part
    return kept


def of_chart() -> dict[str, Any]:
    """Return the schema that the chart has."""
    schema: dict[str, Any] = json.loads(FILE.read_text())
    return schema


def complete(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the chart's schema with the proxy's part in it; ours are the names in lower case."""
    own = {name: each for name, each in schema["definitions"].items() if name[0].islower()}
    return {**schema, "definitions": own | settings_definitions()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(complete(of_chart()), indent=2, ensure_ascii=False) + "\n")
