"""Fixtures for tests that load our artifacts with other software."""
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
AUTOGLM = os.environ.get("AUTOGLM", str(ROOT / "build/release/autoglm"))
DUMP_LOGITS = os.environ.get("AUTOGLM_DUMP_LOGITS", str(ROOT / "build/release/tests/clients/dump_logits"))


def model_folder(name):
    return ROOT / ("models" if name == "glm-phone-demo" else "tests/data/tiny") / name


@pytest.fixture(scope="session")
def compress(tmp_path_factory):
    """compress(name, *options) -> folder; each combination is made once."""
    made = {}

    def make(name, *options):
        key = (name, *options)
        if key not in made:
            output = tmp_path_factory.mktemp(name) / "artifact"
            command = [AUTOGLM, "compress", str(model_folder(name)), "-o", str(output), "--verify", "none", "--quiet", *options]
            result = subprocess.run(command, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            made[key] = output
        return made[key]

    return make


@pytest.fixture
def our_logits(tmp_path):
    """our_logits(folder, ids) -> float32 [tokens, vocab] of our own decoder on the same files."""

    def run(folder, ids):
        (tmp_path / "ids").write_text(" ".join(map(str, ids)))
        result = subprocess.run([DUMP_LOGITS, str(folder), str(tmp_path / "ids"), str(tmp_path / "logits")],
                                capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return np.fromfile(tmp_path / "logits", dtype=np.float32).reshape(len(ids), -1)

    return run
