"""The demo model as benchmarks use it: measured at the same positions of the same text, whatever a row does to it."""
import json
import shutil
from pathlib import Path

from measure import AUTOGLM, ROOT, run

DEMO = ROOT / "models/glm-phone-demo"


def without_tasks(scratch):
    """A copy of the model that is measured on text alone."""
    return shutil.copytree(DEMO, scratch / "model", ignore=shutil.ignore_patterns("tasks"))


def start_of(text, size, scratch):
    """A copy of the first `size` bytes of a text file, cut at a line's end."""
    copy = scratch / f"held_out{Path(text).suffix}"
    copy.write_bytes(Path(text).read_bytes()[:size].rpartition(b"\n")[0])
    return copy


def compress(model, out, text, samples, length, *options):
    """The run; `text` is calibrated on."""
    return run([AUTOGLM, "compress", model, "-o", out, "--overwrite", *options, "--calibration-dataset", text,
                "--calibration-samples", samples, "--calibration-length", length, "--verify", "none", "--quiet"])


def divergence(artifact, model, text):
    """What `autoglm eval` says of all of the text."""
    return json.loads(run([AUTOGLM, "eval", artifact, "--source", model, "--eval-dataset", text, "--level", "full", "--json",
                           "--quiet"]).out)["divergence"]
