"""What tells a runtime: names of programs, first lines of scripts, marks in binaries."""

import pytest

from proxy.launch.runtimes import (
    RUNTIMES,
    advice,
    interpreter_in,
    language_in,
    runtime_of,
    runtimes_of,
)

NAMES = {
    "/usr/bin/python3": "python",
    "/usr/bin/python3.13t": "python",
    "/opt/pypy/bin/pypy3.10": "python",
    "/usr/local/bin/node": "node",
    "nodejs": "node",
    "/usr/lib/jvm/java-21-openjdk/bin/java": "java",
    "go": "go",
    "/usr/bin/ruby3.2": "ruby",
    "/usr/bin/php8.2": "php",
    "/usr/sbin/php-fpm8.2": "php",
    "rust": "rust",
    "/usr/bin/curl": "curl",
    "/usr/bin/wget": "wget",
    "/usr/share/dotnet/dotnet": "dotnet",
    "/home/me/.deno/bin/deno": "deno",
    "/home/me/.bun/bin/bun": "bun",
    "/usr/bin/dash": None,
    "/usr/bin/make": None,
    "/srv/python/app": None,
    "nodemon": None,
}


@pytest.mark.parametrize(("program", "name"), NAMES.items(), ids=NAMES)
def test_a_program_is_known_by_its_name(program: str, name: str | None) -> None:
    found = runtime_of(program)
    assert (found and found.name) == name


def test_each_runtime_is_told_once_in_the_order_of_its_programs() -> None:
    programs = ["/bin/sh", "/usr/bin/node", "/usr/bin/python3", "/usr/bin/node", "nodejs"]
    assert [each.name for each in runtimes_of(programs)] == ["node", "python"]


@pytest.mark.parametrize(
    ("start", "interpreter"),
    [
        (b"#!/usr/bin/python3\nimport os", "/usr/bin/python3"),
        (b"#! /usr/bin/ruby -w\n", "/usr/bin/ruby"),
        (b"#!/usr/bin/env node\n", "node"),
        (b"#!/usr/bin/env -S deno run --allow-net\n", "deno"),
        (b"#!/usr/bin/env -S A=1 python3 -u\n", "python3"),
        (b"#!/usr/bin/env\n", ""),
        (b"#!\n", ""),
        (b"#!", ""),
        (b"\x7fELF\x02\x01", ""),
        (b"", ""),
    ],
)
def test_a_script_names_its_interpreter_in_its_first_line(start: bytes, interpreter: str) -> None:
    assert interpreter_in(start) == interpreter


@pytest.mark.parametrize(
    ("binary", "language"),
    [
        (b"\x7fELF..\xff Go buildinf:\x08..", "go"),
        (b"\x7fELF../rustc/90b35a6/library/core/src..", "rust"),
        (b"\x7fELF..", ""),
    ],
)
def test_a_binary_bears_the_mark_of_its_language(binary: bytes, language: str) -> None:
    assert language_in(binary) == language


def test_every_runtime_has_advice_of_its_own() -> None:
    for about in ("ways", "trust"):
        told = [advice([each], about) for each in RUNTIMES]
        assert len(set(told)) == len(RUNTIMES)
        assert all(
            text.startswith(f"{each.name}: ") for text, each in zip(told, RUNTIMES, strict=True)
        )


def test_of_several_runtimes_each_is_advised() -> None:
    both = runtimes_of(["java", "curl"])
    assert advice(both, "trust") == "; ".join(advice([each], "trust") for each in both)


def test_an_unknown_runtime_is_advised_in_general() -> None:
    assert advice([], "ways") == "look for a setting of the app for a proxy"
    assert "SSL_CERT_FILE" in advice([], "trust")
