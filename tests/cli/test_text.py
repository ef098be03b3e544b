"""Which text is calibrated on and which is evaluated on: never the same, and the report says so."""
import json
import shutil

import pytest

from conftest import DEMO

BAD_INPUT = 3


@pytest.fixture
def bare(tmp_path):
    """The demo model without tasks of its own."""
    folder = tmp_path / "bare"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("tasks"))
    return folder


@pytest.fixture
def text(tmp_path):
    """Enough text to be split: the demo's own calibration tasks."""
    path = tmp_path / "text.jsonl"
    path.write_text((DEMO / "tasks" / "calibration.jsonl").read_text())
    return path


def compress(autoglm, model, tmp_path, *options):
    out = tmp_path / "out"
    done = autoglm("compress", model, "-o", out, "--calibration-samples", 4, "--calibration-length", 64, "--quiet", *options)
    assert done.code == 0, done.err
    assert not list(out.glob("held_out*"))
    return json.loads((out / "report.json").read_text())


def test_a_part_of_the_calibration_text_is_held_back(autoglm, bare, text, tmp_path):
    report = compress(autoglm, bare, tmp_path, "--calibration-dataset", text)
    assert report["evaluation"]["text"]["source"] == f"{text}, a part that calibration did not see"
    assert report["evaluation"]["text"]["sequences"] * report["evaluation"]["text"]["length"] >= 64


def test_one_file_for_both_is_split(autoglm, text, tmp_path):
    report = compress(autoglm, DEMO, tmp_path, "--calibration-dataset", text, "--eval-dataset", tmp_path / "." / text.name)
    assert report["evaluation"]["text"]["source"].endswith("a part that calibration did not see")


def test_the_models_own_tasks_come_before_calibration_text(autoglm, text, tmp_path):
    report = compress(autoglm, DEMO, tmp_path, "--calibration-dataset", text)
    assert report["evaluation"]["text"]["source"].endswith("tasks/eval.jsonl")


def test_one_short_file_for_both_is_refused(autoglm, bare, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("word " * 2000)
    done = autoglm("compress", bare, "-o", tmp_path / "out", "--calibration-samples", 4, "--calibration-length", 64,
                   "--quiet", "--calibration-dataset", text, "--eval-dataset", text)
    done.refused(BAD_INPUT, "text.txt", "two files")
    assert not (tmp_path / "out").exists()


def test_short_text_to_evaluate_on_is_used(autoglm, bare, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("A short text, of some forty tokens, is still something to measure on. " * 4)
    report = compress(autoglm, bare, tmp_path, "--method", "rtn", "--eval-dataset", text)
    assert 16 <= report["evaluation"]["text"]["length"] < 512


def test_without_any_text_the_model_writes_its_own(autoglm, bare, tmp_path):
    report = compress(autoglm, bare, tmp_path)
    assert report["evaluation"]["text"]["source"] == "sampled from the source model"
