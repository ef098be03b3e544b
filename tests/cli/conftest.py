"""Fixtures for tests that run the program as people do."""
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AUTOGLM = os.environ.get("AUTOGLM", str(ROOT / "build/release/autoglm"))
DEMO = ROOT / "models/glm-phone-demo"
TINY = ROOT / "tests/data/tiny"
USAGE, BAD_INPUT, CONTRACT, RESOURCES, CANCELLED = 2, 3, 4, 5, 130
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait leave the cores of a loaded machine to others


def leftovers(folder, *expected):
    return sorted(p.name for p in folder.iterdir() if p.name not in expected)


def wait_until(happens, seconds=60):
    """What `happens` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (result := happens()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
    return result


def process_state(pid):
    """(state, parent) of a process, None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def is_running(pid):
    state = process_state(pid)
    return state is not None and state[0] not in "ZX"


def children(pid):
    """Processes that `pid` started and that run."""
    found = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    return [p for p in found if is_running(p) and (process_state(p) or ("", 0))[1] == pid]


class Run:
    def __init__(self, process):
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr

    def refused(self, code, *words):
        """Exit `code`, nothing on stdout, exactly one line on stderr that holds every word."""
        lines = self.err.strip().splitlines()
        assert self.code == code, (self.code, self.err)
        assert len(lines) == 1, self.err
        assert self.out == ""
        for word in words:
            assert word in lines[0], (word, lines[0])


@pytest.fixture
def autoglm():
    def run(*arguments, **options):
        return Run(subprocess.run([AUTOGLM, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options))

    return run


@pytest.fixture
def model(tmp_path):
    """model("glm") -> a copy of that tiny checkpoint to break."""

    def copy(name="glm"):
        folder = tmp_path / "model"
        shutil.copytree(TINY / name, folder, ignore=shutil.ignore_patterns("golden.safetensors"))
        for file in folder.iterdir():
            file.chmod(0o644)
        return folder

    return copy


@pytest.fixture
def brief(tmp_path):
    """The demo model with eight tasks to evaluate on, so that a full verification is short."""
    folder = tmp_path / "brief"
    shutil.copytree(DEMO, folder)
    tasks = folder / "tasks" / "eval.jsonl"
    tasks.write_text("".join(tasks.read_text().splitlines(keepends=True)[:8]))
    return folder


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield mount
    subprocess.run(["umount", mount], check=True)
