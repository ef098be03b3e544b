"""Memory is promised before and kept during the work: VmHWM as the kernel accounts it to the process and its children,
read from outside."""
import json
import shutil
import subprocess
import sys
import tempfile

import pytest
from conftest import AUTOGLM, DEMO, ROOT

GLM_4_9B_LAYERS = 3
LIMIT = 4_000_000_000


def checkpoint(folder, *arguments):
    subprocess.run([sys.executable, ROOT / "benchmarks/random_checkpoint.py", *map(str, arguments), folder], check=True)
    return folder


# A child's count begins with what its parent holds, so that a small process stands between.
MEASURE = """import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss * 1024))
sys.exit(os.waitstatus_to_exitcode(status))"""


def run(*arguments):
    with tempfile.NamedTemporaryFile("r") as peak:
        done = subprocess.run([sys.executable, "-S", "-c", MEASURE, peak.name, AUTOGLM, *map(str, arguments)], capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), int(peak.read())


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """GLM-4-9B's width at three layers: 3.7 GB, as large as its largest tensors make it."""
    return checkpoint(tmp_path_factory.mktemp("wide") / "model", "glm-4-9b", "--layers", GLM_4_9B_LAYERS)


def test_wide_model_stays_under_max_ram(wide, tmp_path):
    report, peak = run("compress", wide, "-o", tmp_path / "out", "-q", "int4", "--method", "rtn", "--max-ram", "4G", "--json", "--quiet")
    assert peak <= LIMIT
    assert report["measured"]["peak_rss_bytes"] <= 1.05 * report["predicted"]["peak_rss_bytes"]
    assert 0 < report["evaluation"]["peak_rss_bytes"] <= peak
    written = sum(f.stat().st_size for f in (tmp_path / "out").glob("*.safetensors"))
    assert written < 0.85 * sum(f.stat().st_size for f in wide.glob("*.safetensors"))


def test_many_small_matrices_take_no_more_than_planned(tmp_path):
    """What an allocator keeps of one matrix for the next is held by the process all the same."""
    model = checkpoint(tmp_path / "model", "smollm2-135m")
    report, peak = run("compress", model, "-o", tmp_path / "out", "-q", "int4", "--method", "rtn", "--verify", "none", "--json", "--quiet")
    assert peak <= 1.05 * report["predicted"]["peak_rss_bytes"]
    assert peak <= 1.05 * report["measured"]["peak_rss_bytes"]


@pytest.mark.parametrize("options", [("hf", "--type", "bf16"), ("hf", "--type", "fp32"), ("onnx",), ("onnx", "--matmul-nbits"), ("tensorrt",),
                                     ("gguf",), ("gguf", "--type", "q8_0"), ("gguf", "--type", "q4_k")])
def test_an_export_holds_a_few_rows(options, tmp_path):
    """269 MB in, as much or twice as much out."""
    model = checkpoint(tmp_path / "model", "smollm2-135m")
    shutil.copy(DEMO / "tokenizer.json", model)
    report, peak = run("export", model, "--format", *options, "-o", tmp_path / "out", "--json", "--quiet")
    assert report["checked"] > 200
    assert peak < 160_000_000


@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_an_export_on_its_side_holds_one_matrix(layout, wide, tmp_path):
    """As integers and packed: the gate half of 13696 x 4096 has 56 million values."""
    run("compress", wide, "-o", tmp_path / "artifact", "-q", "int4", "--method", "rtn", "--verify", "none", "--json", "--quiet")
    _, peak = run("export", tmp_path / "artifact", "--format", layout, "-o", tmp_path / "out", "--json", "--quiet")
    assert peak < 100_000_000 + 3 * 13696 * 4096


def test_text_is_left_out_where_a_block_does_not_fit(wide, tmp_path):
    """One block takes 816 MB in float32, and each of two models may have 0.7 GB."""
    model = tmp_path / "model"
    model.mkdir()
    for file in [*wide.iterdir(), DEMO / "tokenizer.json", DEMO / "tokenizer_config.json"]:
        (model / file.name).symlink_to(file)
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
    evaluation, peak = run("eval", model, "--source", model, "--eval-dataset", tmp_path / "text.txt", "--max-ram", "2G",
                           "--seconds", "10", "--json", "--quiet")
    assert peak <= 2_000_000_000
    assert evaluation["divergence"] is None and evaluation["text"]["sequences"] == 0
    assert any(note.startswith("text: not measured: one block and the states of") for note in evaluation["notes"])
    assert evaluation["weights"]["compared_share"] > 0


@pytest.mark.parametrize("options", [("-q", "int4", "--method", "gptq"), ("-q", "w8a8", "--method", "rtn")])
def test_prediction_is_an_honest_bound(options, tmp_path):
    report, peak = run("compress", DEMO, "-o", tmp_path / "out", "--verify", "none", "--json", "--quiet", *options)
    predicted, measured = report["predicted"]["peak_rss_bytes"], report["measured"]["peak_rss_bytes"]
    assert max(measured, peak) <= 1.05 * predicted
    assert predicted <= 2 * measured  # not a bound that says nothing


def test_calibration_gives_way_to_max_ram(tmp_path):
    """Inputs kept to save time go first (50 MB); states of the calibration text go to disk as far as memory is short."""
    options = ("compress", DEMO, "-q", "int4", "--method", "gptq", "--calibration-dataset", DEMO / "tasks" / "train.jsonl",
               "--calibration-samples", "128", "--calibration-length", "512", "--verify", "none", "--json", "--quiet")
    limit = run(*options, "--dry-run")[0]["peak_rss_bytes"] - 85_000_000
    plan, _ = run(*options, "--dry-run", "--max-ram", limit)
    assert any("calibration states go to disk" in note for note in plan["notes"])
    report, peak = run(*options, "--max-ram", limit, "-o", tmp_path / "out")
    assert report["calibration"]["tokens"] == 128 * 512
    assert peak <= limit


def test_plan_of_a_huge_model_reads_headers_alone(tmp_path):
    air = checkpoint(tmp_path / "air", "glm-4.5-air", "--headers-only")  # 200 GB of holes
    plan, peak = run("compress", air, "-o", tmp_path / "out", "-q", "int4", "--dry-run", "--json", "--quiet")
    assert peak < 1_000_000_000
    assert plan["bytes_after"] < 0.4 * plan["bytes_before"]
    assert not (tmp_path / "out").exists()
