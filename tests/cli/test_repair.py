"""--repair and the warning that suggests it, as people meet them."""
import json

from conftest import DEMO, USAGE

QUICK = ("--calibration-samples", 8, "--calibration-length", 128, "--verify", "none")


def test_a_matrix_that_loses_too_much_gets_more_bits(autoglm, tmp_path):
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "-q", "int3", *QUICK, "--repair", "0.5%", "--quiet")
    assert done.code == 0, done.err
    passes = json.loads((tmp_path / "out/report.json").read_text())["passes"]
    assert all(entry["output_error"] <= 0.005 for entry in passes)
    raised = [entry for entry in passes if entry["scheme"] != "int3"]
    assert 0 < len(raised) < len(passes)
    assert all("int3 lost" in entry["note"] for entry in raised)
    assert autoglm("generate", tmp_path / "out", "--prompt", "open", "--max-new-tokens", 4).code == 0


def test_large_losses_are_named_with_the_way_to_mend_them(autoglm, tmp_path):
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "-q", "int2-g64", "--method", "rtn", *QUICK)
    assert done.code == 0
    assert "lost more than 10 % of their weight" in done.err and "--repair" in done.err, done.err


def test_it_says_what_it_contradicts(autoglm, tmp_path):
    out = ("-o", tmp_path / "out")
    autoglm("compress", DEMO, *out, "--target-bits", 4, "--repair", "5%").refused(USAGE, "--repair", "budget")
    autoglm("compress", DEMO, *out, "--repair", "100%").refused(USAGE, "--repair")
