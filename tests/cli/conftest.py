"""Fixtures for tests that run the program as people do."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AUTOGLM = os.environ.get("AUTOGLM", str(ROOT / "build/release/autoglm"))
DEMO = ROOT / "models/glm-phone-demo"
TINY = ROOT / "tests/data/tiny"


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
