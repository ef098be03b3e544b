"""tools/bootstrap.sh on machines that it has not seen: package manager, sudo and Python are scripts that note their calls."""
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "ninja-build\npython3.11-venv|python3.12-venv\n"


class Machine:
    """A project folder, and programs that come before the real ones."""

    def __init__(self, folder):
        self.project, self.programs, self.calls = folder / "project", folder / "bin", folder / "calls"
        for part in ("tools", "requirements"):
            (self.project / part).mkdir(parents=True)
        self.programs.mkdir()
        shutil.copy(ROOT / "tools/bootstrap.sh", self.project / "tools")
        (self.project / "requirements/debian-build.txt").write_text(PACKAGES)
        (self.project / "requirements/core.txt").write_text("torch==2.13.0\n")
        self.program("dpkg", "")
        self.program("apt-get", "")
        self.program("apt-cache", '[ "$2" = python3.12-venv ]')  # the release has this one
        self.program("cmake", "echo cmake version 3.30.1")
        self.program("sudo", "exit 1")
        self.program("id", "echo 1000")
        self.installed()

    def program(self, name, body):
        path = self.programs / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{body}\n')
        path.chmod(0o755)

    def installed(self, *packages):
        lines = "".join(f"echo installed {name}\n" for name in packages)
        self.program("dpkg-query", lines)

    def python(self):
        """python3.11, whose `-m venv` makes an environment with itself inside."""
        inner = self.programs / "python3.11"
        self.program("python3.11", f'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp {inner} "$3/bin/python"; fi')

    def run(self, *arguments):
        self.calls.write_text("")
        done = subprocess.run([self.project / "tools/bootstrap.sh", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env={"PATH": f"{self.programs}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}, timeout=60)
        called = self.calls.read_text().splitlines()
        return done, [call for call in called if call.startswith(("apt-get", "python3.11 -m"))]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def stamp(machine):
    return hashlib.sha256((machine.project / "requirements/core.txt").read_bytes()).hexdigest() + "  -\n"


def test_without_root_the_command_is_printed_and_nothing_is_done(machine):
    done, called = machine.run("build")
    assert done.returncode == 1 and called == []
    assert "apt-get update && apt-get install -y --no-install-recommends ninja-build python3.12-venv" in done.stderr
    assert not (machine.project / ".venv").exists()


def test_root_installs_what_is_missing_alone(machine):
    machine.program("id", "echo 0")
    machine.installed("ninja-build")
    machine.python()
    done, called = machine.run("build")
    assert done.returncode == 0, done.stderr
    assert [call.split()[-1] for call in called if "apt-get" in call and " install " in call] == ["python3.12-venv"]
    assert any("-m pip install" in call and call.endswith("--requirement=requirements/core.txt") for call in called)
    assert (machine.project / ".venv/.stamp").read_text() == stamp(machine)


def test_a_second_run_does_nothing(machine):
    machine.installed("ninja-build", "python3.12-venv")
    machine.python()
    assert machine.run("build")[0].returncode == 0
    done, called = machine.run("build")
    assert (done.returncode, done.stderr, called) == (0, "", [])


def test_an_environment_that_was_left_unfinished_is_made_anew(machine):
    machine.installed("ninja-build", "python3.12-venv")
    machine.program("python3.11", "[ \"$1\" != -m ]")  # making one fails
    assert machine.run("build")[0].returncode != 0
    (machine.project / ".venv/half").write_text("")
    machine.python()
    done, _ = machine.run("build")
    assert done.returncode == 0, done.stderr
    assert not (machine.project / ".venv/half").exists() and not (machine.project / ".venv/.unfinished").exists()


def test_changed_pins_are_installed(machine):
    machine.installed("ninja-build", "python3.12-venv")
    machine.python()
    machine.run("build")
    (machine.project / "requirements/core.txt").write_text("torch==2.14.0\n")
    done, called = machine.run("build")
    assert done.returncode == 0 and any("pip install" in call for call in called)
    assert (machine.project / ".venv/.stamp").read_text() == stamp(machine)


def test_an_unknown_word_is_named(machine):
    done, _ = machine.run("biuld")
    assert done.returncode == 1 and "biuld" in done.stderr and "lint" in done.stderr
