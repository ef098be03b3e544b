"""Fixtures for tests that run autoglm-edge as people do."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EDGE = Path(os.environ.get("AUTOGLM_EDGE", ROOT / "build/edge/autoglm-edge"))
AUTOGLM = os.environ.get("AUTOGLM")  # none in a build without LibTorch
SANITIZED = os.environ.get("AUTOGLM_SANITIZED") == "1"
DEMO = ROOT / "models/glm-phone-demo"
TINY = ROOT / "tests/data/tiny"
PROMPT = "App: Clock\n- Save\nTask: tap Save"


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

    def answered(self):
        assert (self.code, self.err) == (0, ""), (self.code, self.err)
        return self.out


def run_program(program, *arguments, **options):
    process = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, timeout=300,
                             **({"stdin": subprocess.DEVNULL} | options if "input" not in options else options))
    return Run(process)


@pytest.fixture
def edge():
    def run(*arguments, **options):
        return run_program(EDGE, *arguments, **options)

    return run


@pytest.fixture
def demo(tmp_path):
    """A copy of the demo model to break."""
    folder = tmp_path / "model"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("tasks"))
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder
