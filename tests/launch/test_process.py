"""A child in our place: signals, the terminal, exit codes, and what it inherits.

The wrapper does all that exec does, but for the proxy.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import program
from launch.terminal import PATIENCE, Terminal

HERE = Path(__file__).parent
ENVIRON = {"PATH": os.environ["PATH"]}
WRAPPER = [sys.executable, str(HERE / "wrapper.py")]
RECORDER = [sys.executable, str(HERE / "recorder.py")]
LEAVE_GROUP = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"
ADOPT_ORPHANS = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1)
os.execv(sys.argv[1], sys.argv[1:])
"""
PROMPT = "ready> "
SIGNALS = {each.name for each in signal.Signals}
SENT = ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR2", "SIGWINCH"]


def wrapped(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the wrapper to its end."""
    return subprocess.run(
        [*WRAPPER, *command],
        check=False, env=ENVIRON, capture_output=True, text=True, timeout=PATIENCE, **options,
    )  # fmt: skip


def told(script: str, **options: Any) -> Any:
    """Run a script in the wrapper; return what it prints, which is JSON."""
    done = wrapped(sys.executable, "-c", script, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Recording:
    """The recorder and its wrapper on a terminal."""

    terminal: Terminal
    child: int
    wrapper: int

    def heard(self, name: str) -> list[str]:
        """Wait until the recorder hears a signal; return that and all that it hears with it.

        What is passed on keeps its order, but of those that wait for it at a time it hears the
        lowest first: what comes with this signal comes before the second of two others.
        """
        words = [*self.terminal.until(f"{name}\r\n").split(), name]
        for _ in range(2):
            os.kill(self.wrapper, signal.SIGUSR1)
            words += self.terminal.until("SIGUSR1\r\n").split()
        return [word for word in words if word in SIGNALS]


def started(terminal: Terminal) -> Recording:
    """Wait until the recorder runs on a terminal."""
    terminal.until("recorder ")
    child, wrapper = terminal.until("\r\n").split(" of ")
    return Recording(terminal, int(child), int(wrapper))


@pytest.fixture
def recording() -> Iterator[Recording]:
    """The wrapper in the foreground of a terminal, which it was started on."""
    with Terminal(*WRAPPER, *RECORDER, environ=ENVIRON) as terminal:
        yield started(terminal)


@pytest.fixture
def shell() -> Iterator[Terminal]:
    """A shell on a terminal, which controls its jobs."""
    environ = {**ENVIRON, "PS1": PROMPT, "HISTFILE": os.devnull}
    with Terminal(program("bash"), "--norc", "-i", environ=environ) as terminal:
        terminal.until(PROMPT)
        yield terminal


def state(pid: int) -> str:
    return psutil.Process(pid).status()


def wait_for(check: Callable[[], bool]) -> None:
    """Return once it is so; it has no event."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.005)


# Signals


@pytest.mark.parametrize("name", SENT)
def test_a_signal_that_is_sent_to_us_reaches_the_child_once(
    recording: Recording, name: str
) -> None:
    os.kill(recording.wrapper, signal.Signals[name])
    assert recording.heard(name) == [name]


@pytest.mark.parametrize("name", SENT)
def test_a_signal_that_is_sent_to_our_whole_group_reaches_the_child_once(
    recording: Recording, name: str
) -> None:
    """As `kill %1` sends it, and a shell whose terminal is closed."""
    os.killpg(recording.wrapper, signal.Signals[name])
    assert recording.heard(name) == [name]


def test_a_signal_that_is_sent_to_one_after_the_other_reaches_the_child_once(
    recording: Recording,
) -> None:
    """As systemd sends it to a control group."""
    wrapper = psutil.Process(recording.wrapper)
    for each in [wrapper, *wrapper.children()]:
        each.terminate()
    assert recording.heard("SIGTERM") == ["SIGTERM"]


@pytest.mark.parametrize(("key", "name"), [("\x03", "SIGINT"), ("\x1c", "SIGQUIT")])
def test_a_key_that_makes_a_signal_is_heard_once(recording: Recording, key: str, name: str) -> None:
    recording.terminal.type(key)
    assert recording.heard(name) == [name]


def test_a_change_of_the_windows_size_is_heard_once(recording: Recording) -> None:
    recording.terminal.resize(33, 44)
    assert recording.heard("SIGWINCH") == ["SIGWINCH"]


def test_a_child_that_has_left_our_group_hears_what_is_typed() -> None:
    command = [*WRAPPER, sys.executable, "-c", LEAVE_GROUP, *RECORDER]
    with Terminal(*command, environ=ENVIRON) as terminal:
        recording = started(terminal)
        terminal.type("\x03")
        assert recording.heard("SIGINT") == ["SIGINT"]


def test_without_the_witness_every_signal_is_passed_on(recording: Recording) -> None:
    """Rather twice than never."""
    (witness,) = [
        each for each in psutil.Process(recording.wrapper).children() if each.pid != recording.child
    ]
    witness.kill()
    for _ in range(2):
        os.kill(recording.wrapper, signal.SIGTERM)
        assert recording.heard("SIGTERM") == ["SIGTERM"]


# Job control


def test_a_key_that_stops_the_child_stops_us_and_fg_has_both_go_on(shell: Terminal) -> None:
    shell.type(f"{shlex.join([*WRAPPER, *RECORDER])}\n")
    job = started(shell)
    shell.type("\x1a")
    assert "Stopped" in shell.until(PROMPT)
    assert (state(job.wrapper), state(job.child)) == ("stopped", "stopped")
    shell.type("fg\n")
    assert job.heard("SIGCONT") == ["SIGCONT"]
    shell.type("text\n")
    shell.until("read text\r\n")


def test_a_job_in_the_background_hears_once_what_a_shell_sends_it(shell: Terminal) -> None:
    shell.type(f"{shlex.join([*WRAPPER, *RECORDER, 'deaf'])} &\n")
    job = started(shell)
    shell.type("kill -USR2 %1\n")
    assert job.heard("SIGUSR2") == ["SIGUSR2"]
    shell.type("kill -STOP %1; kill -CONT %1\n")
    assert job.heard("SIGCONT") == ["SIGCONT"]


def test_a_job_that_reads_from_the_background_stops_until_it_is_in_front(shell: Terminal) -> None:
    shell.type(f"set -b; {shlex.join([*WRAPPER, *RECORDER])} &\n")
    job = started(shell)
    shell.until("Stopped")
    wait_for(lambda: state(job.child) == "stopped")
    shell.type("fg\n")
    assert job.heard("SIGCONT") == ["SIGCONT"]
    shell.type("text\n")
    shell.until("read text\r\n")


def test_a_stop_that_is_sent_to_us_stops_the_child_and_us_if_a_shell_waits(
    shell: Terminal,
) -> None:
    shell.type(f"{shlex.join([*WRAPPER, *RECORDER])}\n")
    job = started(shell)
    os.kill(job.wrapper, signal.SIGTSTP)
    assert "Stopped" in shell.until(PROMPT)
    assert (state(job.wrapper), state(job.child)) == ("stopped", "stopped")


def test_in_the_background_it_stops_only_the_child_and_the_other_signal_has_it_go_on(
    shell: Terminal,
) -> None:
    shell.type(f"{shlex.join([*WRAPPER, *RECORDER, 'deaf'])} &\n")
    job = started(shell)
    os.kill(job.wrapper, signal.SIGTSTP)
    wait_for(lambda: state(job.child) == "stopped")
    os.kill(job.wrapper, signal.SIGCONT)
    assert job.heard("SIGCONT") == ["SIGCONT"]


# The end


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("kill -KILL $$", 128 + signal.SIGKILL),
    ],
)
def test_our_exit_code_is_the_childs_as_a_shell_tells_it(script: str, code: int) -> None:
    assert wrapped("sh", "-c", script).returncode == code


def test_a_key_that_ends_the_child_ends_the_script_that_we_are_in(shell: Terminal) -> None:
    """A shell goes on with its script if what it had started seems to have handled the key."""
    script = f"{shlex.join([*WRAPPER, 'sh', '-c', 'echo begun; exec sleep 60'])}; echo went on"
    shell.type(f"{shlex.join(['bash', '-c', script])}\n")
    shell.until("begun\r\n")
    shell.type("\x03")
    assert "went on" not in shell.until(PROMPT)
    shell.type("echo $?\n")
    assert shell.until(PROMPT).split() == ["130"]


def test_who_outlives_the_child_is_not_waited_for() -> None:
    done = wrapped("sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!")
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked for it")
def test_when_we_are_killed_the_child_is_told(recording: Recording) -> None:
    os.kill(recording.wrapper, signal.SIGKILL)
    recording.terminal.until("SIGTERM\r\n")
    os.kill(recording.child, signal.SIGKILL)


def test_when_the_terminal_is_closed_the_child_is_told(tmp_path: Path) -> None:
    """Even where nobody else is: of all in the session, the system tells only the first."""
    note = tmp_path / "note"
    script = f"trap 'echo told >{note}; exit' HUP; echo begun; while :; do sleep 0.01; done"
    with Terminal(*WRAPPER, "sh", "-c", script, environ=ENVIRON) as terminal:
        terminal.until("begun")
        terminal.hang_up()
        wait_for(note.exists)


@pytest.mark.skipif(sys.platform != "linux", reason="only there others than init get orphans")
def test_orphans_do_not_stay_behind_as_zombies() -> None:
    """As the first process of a container we get all that there are."""
    script = """
import os, subprocess, time
pid = int(subprocess.run(["sh", "-c", "sleep 0.05 & echo $!"], capture_output=True).stdout)
while os.path.exists(f"/proc/{pid}"):
    time.sleep(0.005)
"""
    command = [sys.executable, "-c", ADOPT_ORPHANS, *WRAPPER, sys.executable, "-c", script]
    assert subprocess.run(command, env=ENVIRON, check=False, timeout=PATIENCE).returncode == 0


# What the child inherits


def test_the_child_has_our_standard_streams() -> None:
    done = wrapped("sh", "-c", "cat; echo err >&2", input="text")
    assert (done.stdout, done.stderr) == ("text", "err\n")


def test_where_a_stream_is_closed_there_is_nothing() -> None:
    script = 'exec "$@" <&- 2>&-'
    check = "import os, sys; sys.exit(os.read(0, 1) != b'' or os.write(2, b'text') != 4)"
    command = ["sh", "-c", script, "sh", *WRAPPER, sys.executable, "-c", check]
    done = subprocess.run(command, env=ENVIRON, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_we_do_not_hold_on_to_streams_that_the_child_closes() -> None:
    command = [*WRAPPER, "sh", "-c", "exec >&- 2>&-; read line"]
    with subprocess.Popen(
        command, env=ENVIRON, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.poll() is None


def test_the_child_has_the_files_that_we_were_given_and_none_of_ours(tmp_path: Path) -> None:
    """A shell gives `cmd <(other)` to its command so."""
    script = """
import json, os
listed = os.listdir("/dev/fd")
print(json.dumps(sorted(int(each) for each in listed if os.path.exists(f"/dev/fd/{each}"))))
"""
    with (tmp_path / "given").open("w") as given:
        assert told(script, pass_fds=[given.fileno()]) == [0, 1, 2, given.fileno()]


def test_the_child_is_ended_by_a_pipe_that_nobody_reads() -> None:
    """Python ignores the signal that ends it, and would have its children ignore it, too."""
    done = wrapped("sh", "-c", "yes | head -n 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "y\n", "")


def test_signals_mean_to_the_child_what_they_meant_to_us() -> None:
    script = """
import json, signal
ignored = [each.name for each in signal.Signals if signal.getsignal(each) == signal.SIG_IGN]
blocked = [each.name for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())]
print(json.dumps([ignored, blocked]))
"""
    by_python = ["SIGPIPE", "SIGXFSZ"]
    assert told(script) == [by_python, []]
    ignore = 'trap "" HUP; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", ignore, "sh", *WRAPPER, sys.executable, "-c", script],
        env=ENVIRON, check=True, capture_output=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [["SIGHUP", *by_python], []]
