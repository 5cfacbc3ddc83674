"""The Dockerfile's text: what holds of the image wherever it is built."""

import tomllib
from pathlib import Path

import pytest

from container import dockerfile
from container.context import Context
from container.image import REPOSITORY
from proxy import __version__

TEXT = (REPOSITORY / "Dockerfile").read_text()
LABEL = "org.opencontainers.image."


@pytest.fixture
def config() -> dockerfile.Config:
    *_, last = dockerfile.read(TEXT).values()
    return last.config


def test_it_serves_unless_told_otherwise_and_no_shell_stands_before_it(
    config: dockerfile.Config,
) -> None:
    assert (config.entrypoint, config.command) == (("mobula-proxy",), ("serve",))


def test_its_user_is_a_number_so_that_kubernetes_can_tell_that_it_is_not_root(
    config: dockerfile.Config,
) -> None:
    assert config.user == "65532:65532"


def test_the_signal_that_stops_it_is_the_one_that_drains(config: dockerfile.Config) -> None:
    assert config.stop_signal == "SIGTERM"


def test_its_labels_say_what_the_project_says_of_itself(config: dockerfile.Config) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    told = {name.removeprefix(LABEL): value for name, value in config.labels.items()}
    assert told == {
        "title": project["name"],
        "description": project["description"],
        "licenses": project["license"],
        "version": __version__,
        "revision": "unknown",
    }


def test_a_build_can_say_of_which_version_and_revision_it_is() -> None:
    given = {"VERSION": "9.9.9", "REVISION": "abc123"}
    *_, last = dockerfile.read(TEXT, given).values()
    told = [last.config.labels[LABEL + name] for name in ("version", "revision")]
    assert told == list(given.values())


def test_both_stages_can_be_made_from_another_base() -> None:
    stages = list(dockerfile.read(TEXT, {"BASE": "registry.test/debian:trixie-slim"}).values())
    assert {stage.base for stage in stages} == {"registry.test/debian:trixie-slim", "python"}


@pytest.mark.parametrize(
    "line",
    [
        "HEALTHCHECK CMD true",
        "ENTRYPOINT mobula-proxy",
        "COPY --chown=1 a b",
        "USER 1\nRUN true",
        "ENV A=$NO",
    ],
)
def test_what_the_reader_does_not_know_does_not_go_unheeded(line: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        dockerfile.read(f"FROM debian:trixie-slim\n{line}\n")


# The context


def test_a_build_is_given_what_the_dockerfile_copies_and_nothing_else() -> None:
    copied = [
        source
        for stage in dockerfile.read(TEXT).values()
        for step in stage.steps
        if isinstance(step, dockerfile.Copy) and step.stage is None
        for source in step.sources
    ]
    assert {file.parts[0] for file in Context(REPOSITORY).files()} == set(copied)


def test_no_key_or_state_that_lies_about_gets_into_a_build(tmp_path: Path) -> None:
    for name in (".env", "api-key", "config.yaml", ".state/tokens.db", "proxy/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "proxy" / "app.py").touch()
    (tmp_path / ".dockerignore").write_text((REPOSITORY / ".dockerignore").read_text())
    assert [str(file) for file in Context(tmp_path).files()] == ["proxy/app.py"]
