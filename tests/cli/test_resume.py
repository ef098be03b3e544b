"""--resume: a run that was interrupted goes on and gives the same bytes."""
import signal
import subprocess

import pytest
from conftest import AUTOGLM, BAD_INPUT, CANCELLED, DEMO, USAGE, leftovers, wait_until

QUICK = ("-q", "int4", "--calibration-samples", 16, "--calibration-length", 128, "--verify", "none", "--quiet")
TRAINING = ("--reconstruct", 12)


def command(out, *options):
    return [str(word) for word in (AUTOGLM, "compress", DEMO, "-o", out, *QUICK, *options)]


def interrupt(out, part, sent, *options):
    """Runs until `part` is finished; returns what it printed."""
    process = subprocess.Popen(command(out, *options), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (out.parent / f".{out.name}.autoglm-resume" / part).exists() or process.poll() is not None)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGKILL, CANCELLED), err
    return err


def weights(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith("report")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Artifacts of runs that nothing interrupted, by their options."""
    folder = tmp_path_factory.mktemp("whole")
    made = {}
    for name, options in {"plain": (), "trained": TRAINING}.items():
        subprocess.run(command(folder / name, *options), check=True, timeout=300)
        made[options] = weights(folder / name)
    return made


@pytest.mark.parametrize("part, options", [("layer-00000", ()), ("layer-00002", ()), ("layer-00001", TRAINING), ("trained-00001", TRAINING)])
def test_a_killed_run_goes_on_to_the_same_bytes(autoglm, tmp_path, whole, part, options):
    out = tmp_path / "out"
    interrupt(out, part, signal.SIGKILL, *options)
    assert not out.exists()
    done = autoglm("compress", DEMO, "-o", out, *QUICK, *options, "--resume")
    assert done.code == 0, done.err
    assert "nothing" not in done.err
    assert weights(out) == whole[options]
    assert leftovers(tmp_path) == ["out"]


def test_ctrl_c_keeps_what_is_finished_only_where_it_is_wanted(autoglm, tmp_path, whole):
    out = tmp_path / "out"
    interrupt(out, "layer-00001", signal.SIGINT)
    assert leftovers(tmp_path) == []
    err = interrupt(out, "layer-00001", signal.SIGINT, "--resume")
    assert "blocks are kept" in err and err.count("\n") == 1, err  # and, before it, nothing: --quiet
    assert leftovers(tmp_path) == [".out.autoglm-resume"]
    assert autoglm("compress", DEMO, "-o", out, *QUICK, "--resume").code == 0
    assert weights(out) == whole[()]
    assert leftovers(tmp_path) == ["out"]


def test_what_cannot_be_resumed_says_why(autoglm, tmp_path):
    out = tmp_path / "out"
    interrupt(out, "layer-00001", signal.SIGKILL)
    resume = ("compress", DEMO, "-o", out, *QUICK, "--resume")
    autoglm(*resume, "--seed", 7).refused(USAGE, "seed (was 0, is 7)", "--resume")
    part = tmp_path / ".out.autoglm-resume" / "layer-00000" / "model.safetensors"
    with part.open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"damaged")
    autoglm(*resume).refused(BAD_INPUT, "layer-00000", "damaged", "--resume")
    assert leftovers(tmp_path) == [".out.autoglm-resume"]  # for whoever wants to look
    assert autoglm("compress", DEMO, "-o", out, *QUICK).code == 0
    assert leftovers(tmp_path) == ["out"]


def test_a_search_for_a_contract_is_not_resumed(autoglm, tmp_path):
    autoglm("compress", DEMO, "-o", tmp_path / "out", "-q", "auto", "--max-kl", 0.1, "--resume").refused(USAGE, "--resume", "--scores")
