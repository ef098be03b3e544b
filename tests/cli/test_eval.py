"""`autoglm eval` by each engine: what users will run is what is measured."""
import json
import shutil

import pytest

from conftest import DEMO, USAGE


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A demo model without tasks, and text of a few hundred tokens."""
    folder = tmp_path_factory.mktemp("eval")
    shutil.copytree(DEMO, folder / "model", ignore=shutil.ignore_patterns("tasks"))
    (folder / "text.jsonl").write_text("".join((DEMO / "tasks/eval.jsonl").open().readlines()[:24]))
    return folder


@pytest.mark.parametrize("scheme", ["int4-g128", "w8a8"])
def test_the_runtime_loses_what_torch_loses(autoglm, place, scheme):
    out = place / scheme
    done = autoglm("compress", place / "model", "-o", out, "-q", scheme, "--method", "rtn", "--verify", "none", "--quiet")
    assert done.code == 0, done.err
    kl = {}
    for engine in ("torch", "runtime", "runtime-int8"):
        done = autoglm("eval", out, "--source", place / "model", "--eval-dataset", place / "text.jsonl", "--level", "full",
                       "--engine", engine, "--json", "--quiet")
        assert done.code == 0, done.err
        report = json.loads(done.out)
        assert report["conditions"]["engine"] == engine
        assert report["latency"]["milliseconds_per_token"] > 0
        kl[engine] = report["divergence"]["kl_mean"]
    assert kl["runtime"] == pytest.approx(kl["torch"], abs=1e-4), kl
    assert kl["runtime-int8"] <= kl["torch"] + 2e-3, kl


def test_the_runtime_agrees_with_the_plain_source(autoglm, place):
    done = autoglm("eval", place / "model", "--source", place / "model", "--eval-dataset", place / "text.jsonl", "--level",
                   "full", "--engine", "runtime", "--json", "--quiet")
    assert done.code == 0, done.err
    assert abs(json.loads(done.out)["divergence"]["kl_mean"]) < 1e-5


def test_an_unknown_engine_is_refused(autoglm, place):
    autoglm("eval", place / "model", "--engine", "runtme").refused(USAGE, "runtme", "runtime")
