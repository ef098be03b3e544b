"""--method gptaq and --refine as people give them."""
import json

from conftest import DEMO, RESOURCES, TINY, USAGE

QUICK = ("-q", "int3-g64", "--calibration-samples", 16, "--calibration-length", 64, "--verify", "none", "--quiet")


def made(autoglm, out, *options):
    done = autoglm("compress", DEMO, "-o", out, *QUICK, *options)
    assert done.code == 0, done.err
    report = json.loads((out / "report.json").read_text())
    return report, (out / "model.safetensors").read_bytes()


def test_refinement_costs_no_bytes_and_comes_closer(autoglm, tmp_path):
    plain, before = made(autoglm, tmp_path / "plain", "--method", "rtn")
    refined, after = made(autoglm, tmp_path / "refined", "--method", "rtn", "--refine", 2)
    assert plain["refinement"] is None and len(before) == len(after) and before != after
    result = refined["refinement"]
    assert result["kept"] and result["epochs"] == 2 and result["steps"] == 2
    assert 0 < result["kl_after"] < result["kl_before"]
    assert refined["recipe"]["refine"] == 2
    assert refined["measured"]["peak_rss_bytes"] <= refined["predicted"]["peak_rss_bytes"]
    assert any(stage["name"] == "refining" for stage in refined["stages"])


def test_gptaq_differs_from_gptq_and_holds_its_memory(autoglm, tmp_path):
    _, gptq = made(autoglm, tmp_path / "gptq", "--method", "gptq")
    report, gptaq = made(autoglm, tmp_path / "gptaq", "--method", "gptaq")
    assert gptq != gptaq and {entry["method"] for entry in report["passes"]} == {"gptaq"}
    assert report["measured"]["peak_rss_bytes"] <= report["predicted"]["peak_rss_bytes"]


def test_what_refinement_needs(autoglm, tmp_path):
    out = tmp_path / "out"
    autoglm("compress", TINY / "glm4", "-o", out, "--method", "rtn", "--refine", 1).refused(USAGE, "--refine", "--calibration-dataset")
    autoglm("compress", DEMO, "-o", out, *QUICK, "--refine", 1, "--max-ram", "250M").refused(RESOURCES, "refinement needs", "--max-ram")
    autoglm("compress", DEMO, "-o", out, *QUICK, "--refine", 5000).refused(USAGE, "--refine is 5000", "1000")
    assert not out.exists()
