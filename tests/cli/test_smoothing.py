"""--method awq and smoothquant, alone and before another method, as people give them."""
import json
import shutil

import pytest
from conftest import DEMO, TINY, USAGE

QUICK = ("--calibration-samples", 8, "--calibration-length", 128, "--verify", "none", "--quiet")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The demo model without its tasks, and some of their text: measured whole, however busy the machine is."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(DEMO, folder / "demo", ignore=shutil.ignore_patterns("tasks"))
    lines = (DEMO / "tasks/eval.jsonl").read_text().splitlines()
    (folder / "text.jsonl").write_text("\n".join(lines[:24]) + "\n")
    return folder


def made(autoglm, out, *options):
    done = autoglm("compress", DEMO, "-o", out, *QUICK, *options)
    assert done.code == 0, done.err
    return json.loads((out / "report.json").read_text())


def measured(autoglm, source, out):
    done = autoglm("eval", out, "--source", source / "demo", "--eval-dataset", source / "text.jsonl", "--level", "full", "--json", "--quiet")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_awq_loses_less_than_rounding(autoglm, tmp_path, source):
    report = made(autoglm, tmp_path / "awq", "-q", "int3", "--method", "awq")
    made(autoglm, tmp_path / "rtn", "-q", "int3", "--method", "rtn")
    awq, rtn = (measured(autoglm, source, tmp_path / name) for name in ("awq", "rtn"))
    assert 0 < awq["divergence"]["kl_mean"] < rtn["divergence"]["kl_mean"]
    assert any("AWQ α 0." in entry["note"] for entry in report["passes"]) and report["recipe"]["method"] == "awq"
    assert any(stage["name"] == "smoothing" for stage in report["stages"])
    assert report["measured"]["peak_rss_bytes"] <= report["predicted"]["peak_rss_bytes"]
    # What was folded is taken out again before weights are compared: norms are the source's, biases but for what
    # they give back of mean outputs.
    assert (tmp_path / "awq/folds.st").exists() and not (tmp_path / "rtn/folds.st").exists()
    assert all(name.endswith("_proj.bias") for name in awq["weights"]["changed"]) and awq["weights"]["missing"] == []
    assert min(t["cosine"] for t in awq["weights"]["tensors"] if not t["name"].endswith(".bias")) > 0.9
    (tmp_path / "awq/folds.st").write_text("damaged")
    autoglm("eval", tmp_path / "awq", "--source", source / "demo", "--eval-dataset", source / "text.jsonl", "--quiet").refused(3, "folds.st")


def test_smoothquant_smooths_norms_alone(autoglm, tmp_path, source):
    report = made(autoglm, tmp_path / "out", "-q", "w8a8", "--method", "smoothquant")
    notes = {entry["name"]: entry["note"] for entry in report["passes"]}
    assert any("SmoothQuant α" in note for note in notes.values())
    assert all("SmoothQuant" not in note for name, note in notes.items() if name.endswith(("o_proj", "down_proj")))
    assert {entry["method"] for entry in report["passes"]} == {"rtn"}
    assert 0 < measured(autoglm, source, tmp_path / "out")["divergence"]["kl_mean"] < 0.01


def test_folds_before_gptq_and_training(autoglm, tmp_path, source):
    report = made(autoglm, tmp_path / "out", "-q", "int3-g64", "--method", "awq+gptq", "--reconstruct", 5, "--refine", 1)
    assert {entry["method"] for entry in report["passes"]} == {"gptq"}
    assert len(report["reconstruction"]) == 8 and report["refinement"] is not None
    result = measured(autoglm, source, tmp_path / "out")
    assert result["divergence"]["kl_mean"] < 0.1
    assert min(tensor["cosine"] for tensor in result["weights"]["tensors"]) > 0.85


def test_a_recipe_file(autoglm, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("scheme: w8a8\nmethod: smoothquant+gptq\nmethods: {smoothquant: {strength: 0.5}}\n")
    report = made(autoglm, tmp_path / "out", "--config", recipe)
    assert {entry["method"] for entry in report["passes"]} == {"gptq"}
    assert any("SmoothQuant α 0.5" in entry["note"] for entry in report["passes"])


def test_what_is_refused(autoglm, tmp_path):
    def refused(model, method, *words):
        autoglm("compress", model, "-q", "int4", "-o", tmp_path / "out", "--method", method, *QUICK).refused(USAGE, *words)

    refused(DEMO, "awk", "unknown method 'awk'", "awq")
    refused(DEMO, "smothquant+gptq", "smoothquant")
    refused(DEMO, "awq+smoothquant", "'awq' and 'smoothquant' both choose scales")
    refused(DEMO, "awq+gptq+rtn", "'gptq' and 'rtn' both round")
    refused(TINY / "glm4", "awq", "needs calibration text")
    refused(TINY / "glm4", "smoothquant", "needs calibration text")
    autoglm("compress", DEMO, "-q", "bf16", "-o", tmp_path / "out", "--method", "awq", *QUICK).refused(USAGE, "leave it out")
    assert not (tmp_path / "out").exists()
