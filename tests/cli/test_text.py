"""Which text is calibrated on and which is evaluated on: never the same, and the report says so."""
import ctypes
import json
import os
import shutil

import pytest

from conftest import BAD_INPUT, DEMO, RESOURCES, TINY, USAGE, leftovers


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
    report = compress(autoglm, bare, tmp_path, "--calibration-dataset", text, "--verify", "full")
    assert report["evaluation"]["text"]["source"] == f"{text}, a part that calibration did not see"
    assert report["evaluation"]["text"]["sequences"] * report["evaluation"]["text"]["length"] >= 64


def test_one_file_for_both_is_split(autoglm, brief, text, tmp_path):
    report = compress(autoglm, brief, tmp_path, "--calibration-dataset", text, "--eval-dataset", tmp_path / "." / text.name)
    assert report["evaluation"]["text"]["source"].endswith("a part that calibration did not see")


def test_the_models_own_tasks_come_before_calibration_text(autoglm, brief, text, tmp_path):
    report = compress(autoglm, brief, tmp_path, "--calibration-dataset", text)
    assert report["evaluation"]["text"]["source"].endswith("tasks/eval.jsonl")


def test_one_short_file_for_both_is_refused(autoglm, bare, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("word " * 70)
    done = autoglm("compress", bare, "-o", tmp_path / "out", "--calibration-samples", 4, "--calibration-length", 64,
                   "--quiet", "--calibration-dataset", text, "--eval-dataset", text)
    done.refused(BAD_INPUT, "text.txt", "two files")
    assert not (tmp_path / "out").exists()


OWN = DEMO / "tasks"


@pytest.mark.parametrize("calibration", ["eval.jsonl", ".", "link"])
def test_the_models_own_tasks_are_never_calibrated_on(autoglm, tmp_path, calibration):
    text = OWN / calibration
    if calibration == "link":
        text = tmp_path / "other_name.jsonl"
        text.symlink_to(OWN / "eval.jsonl")
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "--calibration-dataset", text)
    done.refused(USAGE, "tasks/eval.jsonl", "evaluated", "--verify none")
    assert leftovers(tmp_path, "other_name.jsonl") == []


def test_tasks_may_be_calibrated_on_where_nothing_is_evaluated(autoglm, tmp_path):
    compress(autoglm, DEMO, tmp_path, "--calibration-dataset", OWN, "--verify", "none")


def test_the_models_own_calibration_text_is_split_when_it_is_evaluated_on(autoglm, brief, tmp_path):
    own = brief / "tasks" / "calibration.jsonl"
    report = compress(autoglm, brief, tmp_path, "--eval-dataset", own)
    assert report["evaluation"]["text"]["source"] == f"{own}, a part that calibration did not see"


def test_the_models_own_calibration_text_is_split_when_there_is_no_other(autoglm, bare, tmp_path):
    (bare / "tasks").mkdir()
    shutil.copy(OWN / "calibration.jsonl", bare / "tasks")
    report = compress(autoglm, bare, tmp_path)
    assert report["evaluation"]["text"]["source"].endswith("calibration.jsonl, a part that calibration did not see")


def test_a_file_of_the_folder_that_is_calibrated_on_is_split(autoglm, bare, text, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    shutil.copy(text, folder / "a.jsonl")
    (folder / "b.txt").write_text("".join(f"Sentence number {i} of many that are calibrated on.\n" for i in range(2000)))
    report = compress(autoglm, bare, tmp_path, "--calibration-dataset", folder, "--eval-dataset", folder / "a.jsonl")
    assert report["evaluation"]["text"]["source"] == f"{folder / 'a.jsonl'}, a part that calibration did not see"
    assert report["calibration"]["source"] == str(folder)


def test_other_text_is_used_whole(autoglm, brief, text, tmp_path):
    lines = (OWN / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(lines[:200]))
    report = compress(autoglm, brief, tmp_path, "--calibration-dataset", text, "--eval-dataset", tmp_path / "other.jsonl")
    assert report["evaluation"]["text"]["source"] == str(tmp_path / "other.jsonl")


def test_a_copy_under_another_name_is_split_too(autoglm, brief, text, tmp_path):
    report = compress(autoglm, brief, tmp_path, "--calibration-dataset", text, "--eval-dataset", OWN / "calibration.jsonl")
    assert "a part that calibration did not see" in report["evaluation"]["text"]["source"]


def test_short_text_to_evaluate_on_is_used(autoglm, bare, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("A short text, of some forty tokens, is still something to measure on. " * 4)
    report = compress(autoglm, bare, tmp_path, "--method", "rtn", "--eval-dataset", text)
    assert 16 <= report["evaluation"]["text"]["length"] < 512


def test_without_any_text_the_model_writes_its_own(autoglm, bare, tmp_path):
    report = compress(autoglm, bare, tmp_path)
    assert report["evaluation"]["text"]["source"] == "sampled from the source model"


# Folders, and files that cannot be read.

def test_a_folder_of_mixed_files(autoglm, bare, text, tmp_path):
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    shutil.copy(text, folder / "b.jsonl")
    (folder / "a.txt").write_text("Plain text is one document. " * 50)
    (folder / "empty.txt").write_text("")
    (folder / "notes.md").write_text("ignored")
    (folder / "below" / "c.jsonl").write_text("no JSON, and never read")
    report = compress(autoglm, bare, tmp_path, "--calibration-dataset", folder, "--verify", "none")
    expected = {"source": str(folder), "sequences": 4, "length": 64, "seed": 0, "tokens": 256, "set_sha256": None}
    assert expected.items() <= report["calibration"].items()


def without_root_rights():
    """In the child: permissions hold for root as for others."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize("name", ["secret.txt", "secret.jsonl"])
def test_a_file_that_may_not_be_read_is_named(autoglm, text, tmp_path, name):
    folder = tmp_path / "texts"
    folder.mkdir()
    shutil.copy(text, folder / "a.jsonl")
    (folder / name).write_text("x")
    (folder / name).chmod(0)
    for option, other in (("--calibration-dataset", ()), ("--eval-dataset", ("--method", "rtn"))):
        done = autoglm("compress", DEMO, "-o", tmp_path / "out", option, folder, *other, preexec_fn=without_root_rights)
        done.refused(BAD_INPUT, name, "permissions")
    assert leftovers(tmp_path, "texts", text.name) == []


# What is named must be there, and is used or said not to be.

@pytest.mark.parametrize("option", ["--calibration-dataset", "--eval-dataset"])
@pytest.mark.parametrize("more", [("--dry-run",), ("--verify", "none"), ()])
def test_named_text_that_is_not_there(autoglm, tmp_path, option, more):
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "--method", "rtn", option, tmp_path / "nope.txt", *more)
    done.refused(BAD_INPUT, "nope.txt")
    assert leftovers(tmp_path) == []


def test_broken_text_to_evaluate_on_is_found_before_the_work(autoglm, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "fine"}\n{"text": }\n')
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "--method", "rtn", "--eval-dataset", broken)
    done.refused(BAD_INPUT, "broken.jsonl:2")
    assert leftovers(tmp_path, broken.name) == []


def test_text_that_goes_unused_is_said(autoglm, text, tmp_path):
    usual = ("compress", DEMO, "-o", tmp_path / "out", "--overwrite", "--method", "rtn", "--verify", "none")
    done = autoglm(*usual, "--calibration-dataset", text)
    assert done.code == 0 and f"--calibration-dataset {text} is not read" in done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any("--calibration-dataset" in warning for warning in report["warnings"])
    done = autoglm(*usual, "--eval-dataset", text)
    assert done.code == 0 and f"--eval-dataset {text} is not read" in done.err


# What the verification cannot do.

def test_the_exit_code_of_the_verification_is_passed_on(autoglm, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("two words")
    done = autoglm("compress", DEMO, "-o", tmp_path / "out", "--method", "rtn", "--eval-dataset", text, "--quiet")
    assert done.code == BAD_INPUT
    assert len(done.err.strip().splitlines()) == 1 and "short.txt" in done.err and "artifact is kept" in done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"] is None and any("not measured" in warning for warning in report["warnings"])
    assert leftovers(tmp_path / "out", *(p.name for p in DEMO.iterdir())) == ["report.json", "report.md"]


def test_a_model_without_a_tokenizer_is_measured_on_its_own_text_and_that_is_noted(autoglm, tmp_path):
    out = tmp_path / "out"
    done = autoglm("compress", TINY / "glm", "-o", out, "-q", "int8", "--method", "rtn", "--quiet")
    assert done.code == 0, done.err
    evaluation = json.loads((out / "report.json").read_text())["evaluation"]
    assert evaluation["text"]["source"] == "sampled from the source model"
    assert any("no tokenizer" in note for note in evaluation["notes"])


def test_the_model_writes_its_own_calibration_text(autoglm, bare, tmp_path):
    options = ("-q", "int4", "--calibration-dataset", "self")
    report = compress(autoglm, bare, tmp_path, *options)
    assert report["calibration"]["source"] == "self" and report["calibration"]["sequences"] == 4
    assert {entry["method"] for entry in report["passes"]} == {"gptq"}
    assert report["evaluation"]["divergence"]["kl_mean"] < 0.1
    assert report["measured"]["peak_rss_bytes"] <= report["predicted"]["peak_rss_bytes"]
    first = (tmp_path / "out/model.safetensors").read_bytes()
    compress(autoglm, bare, tmp_path, *options, "--overwrite", "--verify", "none")
    assert (tmp_path / "out/model.safetensors").read_bytes() == first


def test_writing_its_own_text_takes_the_whole_model_in_memory(autoglm, bare, tmp_path):
    autoglm("compress", bare, "-o", tmp_path / "out", "--calibration-dataset", "self", "--max-ram", "150M").refused(RESOURCES, "memory")
    assert not (tmp_path / "out").exists()
