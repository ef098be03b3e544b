"""Calibration sets: built, shown, used, and known by their hash."""
import hashlib
import json
import shutil
import signal
import struct
import subprocess

import pytest
from conftest import AUTOGLM, BAD_INPUT, CANCELLED, DEMO, RESOURCES, USAGE, leftovers, wait_until
from test_bad_input import set_config
from test_interruption import handles_signals
from test_text import without_root_rights

TASKS = DEMO / "tasks" / "calibration.jsonl"


@pytest.fixture
def build(autoglm, tmp_path):
    """build(TEXT..., OPTION...) -> the run; the set is tmp_path/set.jsonl."""

    def run(*arguments, model=DEMO, output=None, **options):
        return autoglm("calibrate", "build", model, *arguments, "-o", output or tmp_path / "set.jsonl", "--quiet", **options)

    return run


@pytest.fixture
def a_set(build, tmp_path):
    assert build(TASKS, "--samples", 6, "--length", 64).code == 0
    return tmp_path / "set.jsonl"


def lines_of(file):
    header, *sequences = map(json.loads, file.read_text().splitlines())
    return header, sequences


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def compress(autoglm, tmp_path, *options, model=DEMO):
    return autoglm("compress", model, "-o", tmp_path / "out", "--quiet", "--threads", 1, *options)


# Building.

def test_texts_chats_and_tasks_are_mixed_and_duplicates_removed(build, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "prose.txt").write_text("".join(f"The sentence of number {i} says something of its own.\n" for i in range(900)))
    chat = [{"role": "user", "content": "请打开设置"}, {"role": "assistant", "content": "好的,已经为你打开了手机上的设置应用。"}]
    again = "This line of text stands in the file twice, but for case and spacing, which do not count."
    (folder / "mixed.jsonl").write_text("\n".join([json.dumps({"messages": chat}), json.dumps({"text": again}),
                                                   json.dumps({"text": again.upper().replace(" ", "  ")}), '{"text": "short"}']))
    done = build(TASKS, folder, "--samples", 40, "--length", 128, "--json")
    assert done.code == 0, done.err
    header, sequences = lines_of(tmp_path / "set.jsonl")
    assert header["samples"] == len(sequences) == 40 and header["length"] == 128
    assert header["duplicates_removed"] == 1 and header["too_short"] == 1
    assert header["sources"] == [{"name": f.name, "sha256": sha256(f)} for f in (TASKS, folder / "mixed.jsonl", folder / "prose.txt")]
    languages = {(s["source"], s["language"]) for s in sequences}
    assert languages == {("calibration.jsonl", "latin"), ("calibration.jsonl", "zh"), ("mixed.jsonl", "latin"),
                         ("mixed.jsonl", "zh"), ("prose.txt", "latin")}
    for sequence in sequences:
        assert 16 <= len(sequence["tokens"]) <= 128 and len(sequence["documents"]) == 1
        full = sequence["source"] == "prose.txt"
        assert (len(sequence["tokens"]) == 128) if full else sequence["text"]
    shown = json.loads(done.out)
    assert shown["sha256"] == sha256(tmp_path / "set.jsonl") and shown["tokens"] == sum(len(s["tokens"]) for s in sequences)
    assert sum(s["sequences"] for s in shown["strata"]) == 40


def test_joined_documents_fill_every_sequence(build, tmp_path):
    assert build(TASKS, "--samples", 20, "--length", 256, "--join").code == 0
    header, sequences = lines_of(tmp_path / "set.jsonl")
    assert header["join"] and all(len(s["tokens"]) == 256 and len(s["documents"]) > 1 for s in sequences)


def test_the_same_seed_gives_the_same_bytes(build, tmp_path):
    sets = []
    for seed in (1, 1, 2):
        assert build(TASKS, "--samples", 8, "--seed", seed, "--overwrite").code == 0
        sets.append((tmp_path / "set.jsonl").read_bytes())
    assert sets[0] == sets[1] != sets[2]


def test_the_model_writes_its_own(autoglm, build, tmp_path):
    options = ("self", "--samples", 4, "--length", 24)
    assert build(*options).code == 0
    first = tmp_path / "set.jsonl"
    header, sequences = lines_of(first)
    assert header["sources"] == [{"name": "self"}] and [len(s["tokens"]) for s in sequences] == [24] * 4
    assert build(*options, output=tmp_path / "again.jsonl").code == 0
    assert first.read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    build("self", "--max-ram", "20M", output=tmp_path / "big.jsonl").refused(RESOURCES, "memory", "self")
    assert leftovers(tmp_path) == ["again.jsonl", "set.jsonl"]


def test_files_of_one_name_are_told_apart(build, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text.txt").write_text(f"In folder {folder} " + "there are quite a few words to read here. " * 9)
    assert build(tmp_path / "a", tmp_path / "b", tmp_path / "a" / "text.txt", "--length", 32).code == 0
    header, sequences = lines_of(tmp_path / "set.jsonl")
    assert [s["name"] for s in header["sources"]] == ["text.txt", "text.txt (2)"]
    assert {s["source"] for s in sequences} == {"text.txt", "text.txt (2)"}


# Bad input of building.

def test_options_of_building(autoglm, build, tmp_path):
    build().refused(USAGE, "no text")
    autoglm("calibrate", "build", DEMO, TASKS).refused(USAGE, "-o set.jsonl")
    build(TASKS, output=tmp_path / "set.txt").refused(USAGE, ".jsonl")
    build(TASKS, "--samples", 0).refused(USAGE, "--samples is 0")
    build(TASKS, "--length", 15).refused(USAGE, "--length is 15", "16")
    build(TASKS, "--length", 100000).refused(USAGE, "--length is 100000", "the model takes")
    build(tmp_path / "nope.txt").refused(BAD_INPUT, "nope.txt")
    autoglm("calibrate", "biuld").refused(USAGE, "'biuld'", "'build'")
    autoglm("calibrate", "build", "--sampels", 3).refused(USAGE, "--sampels", "--samples", "autoglm calibrate build --help")
    autoglm("calibrate", "--json").refused(USAGE, "--json")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("content", ["", " \n", "two words"])
def test_too_little_text(build, tmp_path, content):
    text = tmp_path / "text.txt"
    text.write_text(content)
    build(text).refused(BAD_INPUT, "single sequence")
    assert leftovers(tmp_path) == ["text.txt"]


def test_nothing_but_duplicates_gives_one(build, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text(json.dumps({"text": "The same words in every line of this file, again and again and again."}) + "\n")
    text.write_text(text.read_text() * 50)
    done = build(text)
    assert done.code == 0
    header, sequences = lines_of(tmp_path / "set.jsonl")
    assert header["duplicates_removed"] == 49 and len(sequences) == 1


def test_text_that_cannot_be_read(build, tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "fine"}\n{"text": }\n')
    build(text).refused(BAD_INPUT, "text.jsonl:2")
    text.chmod(0)
    build(text, preexec_fn=without_root_rights).refused(BAD_INPUT, "text.jsonl", "permissions")
    assert leftovers(tmp_path) == ["text.jsonl"]


def test_a_model_that_cannot_tokenize(build, model, tmp_path):
    folder = model()
    build(TASKS, model=folder, output=tmp_path / "set.jsonl").refused(BAD_INPUT, "tokenizer")
    (folder / "tokenizer.json").write_text("{")
    build(TASKS, model=folder).refused(BAD_INPUT, "tokenizer.json")
    build(TASKS, model=tmp_path / "nowhere").refused(BAD_INPUT, "nowhere")
    assert leftovers(tmp_path) == ["model"]


def test_what_stands_there_is_kept(build, a_set, tmp_path):
    before = a_set.read_bytes()
    build(TASKS).refused(USAGE, "set.jsonl", "exists", "--overwrite")
    assert a_set.read_bytes() == before
    assert build(TASKS, "--overwrite", "--samples", 3).code == 0
    assert a_set.read_bytes() != before
    text = tmp_path / "text.jsonl"
    shutil.copy(TASKS, text)
    build(text, "--overwrite", output=text).refused(USAGE, "text.jsonl", "is no calibration set")
    build(TASKS, output=tmp_path / "no" / "such.jsonl").refused(BAD_INPUT, "such.jsonl")
    assert leftovers(tmp_path) == ["set.jsonl", "text.jsonl"]


def test_where_nothing_may_be_written(build, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    build(TASKS, output=small_disk / "set.jsonl").refused(RESOURCES, "set.jsonl", "written")


@pytest.mark.parametrize("texts", [("self",), (TASKS, "self")])
def test_it_stops_when_asked_and_leaves_nothing(tmp_path, texts):
    process = subprocess.Popen(list(map(str, [AUTOGLM, "calibrate", "build", DEMO, *texts, "-o", tmp_path / "set.jsonl",
                                              "--samples", 2000])), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: handles_signals(process))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CANCELLED, err
    assert leftovers(tmp_path) == []


# Showing.

def test_it_can_be_shown(autoglm, a_set):
    shown = autoglm("calibrate", "show", a_set)
    assert shown.code == 0 and "calibration.jsonl" in shown.out and sha256(a_set) in shown.out
    assert json.loads(autoglm("calibrate", "show", a_set, "--json").out)["samples"] == 6
    autoglm("calibrate", "show").refused(USAGE, "no calibration set given")
    autoglm("calibrate", "show", a_set.parent / "other.jsonl").refused(BAD_INPUT, "other.jsonl")
    autoglm("calibrate", "show", TASKS).refused(BAD_INPUT, "calibration.jsonl:1", "no calibration set")


# Using.

def test_a_set_is_used_as_it_is_and_its_hash_recorded(autoglm, brief, build, tmp_path):
    text = tmp_path / "text.jsonl"
    shutil.copy(TASKS, text)
    assert build(text, "--samples", 10, "--length", 100).code == 0
    a_set = tmp_path / "set.jsonl"
    _, sequences = lines_of(a_set)
    assert len({len(s["tokens"]) for s in sequences}) > 2  # every part of the program takes sequences of several lengths
    done = compress(autoglm, tmp_path, "--calibration-dataset", a_set, "--reconstruct", 1, "--refine", 1, model=brief)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    used = report["calibration"]
    assert used["source"] == str(a_set) and used["set_sha256"] == sha256(a_set) and used["sequences"] == 10
    assert used["tokens"] == sum(len(s["tokens"]) for s in sequences)
    tokens = b"".join(struct.pack(f"<{len(s['tokens']) + 1}i", len(s["tokens"]), *s["tokens"]) for s in sequences)
    assert used["tokens_sha256"] == hashlib.sha256(tokens).hexdigest()
    assert sha256(a_set) in (tmp_path / "out" / "report.md").read_text()
    assert report["evaluation"]["text"]["source"].endswith("tasks/eval.jsonl")
    assert len(report["reconstruction"]) > 0 and report["refinement"]["steps"] > 0


def test_the_first_of_a_set_and_a_budget(autoglm, a_set, tmp_path):
    done = compress(autoglm, tmp_path, "--calibration-dataset", a_set, "--calibration-samples", 3,
                    "--calibration-length", 512, "--target-bits", 6, "--verify", "none")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    _, sequences = lines_of(a_set)
    assert report["calibration"]["tokens"] == sum(len(s["tokens"]) for s in sequences[:3])
    assert any("taken as they are" in warning for warning in report["warnings"])


def test_without_other_text_the_model_writes_what_is_evaluated_on(autoglm, a_set, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(DEMO, bare, ignore=shutil.ignore_patterns("tasks"))
    assert compress(autoglm, tmp_path, "--calibration-dataset", a_set, model=bare).code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["text"]["source"] == "sampled from the source model"


def test_text_of_the_set_is_not_evaluated_on(autoglm, build, a_set, tmp_path):
    renamed = tmp_path / "renamed.jsonl"
    shutil.copy(TASKS, renamed)
    compress(autoglm, tmp_path, "--calibration-dataset", a_set, "--eval-dataset", renamed).refused(
        USAGE, "renamed.jsonl", "set.jsonl was made from it")
    compress(autoglm, tmp_path, "--calibration-dataset", a_set, "--eval-dataset", a_set).refused(BAD_INPUT, "set.jsonl:1")
    autoglm("eval", DEMO, "--eval-dataset", a_set).refused(BAD_INPUT, "set.jsonl:1", "calibration set")
    own = tmp_path / "own.jsonl"
    assert build(DEMO / "tasks" / "eval.jsonl", "--samples", 4, output=own).code == 0
    compress(autoglm, tmp_path, "--calibration-dataset", own).refused(USAGE, "tasks/eval.jsonl", "own.jsonl", "--verify none")


def test_broken_and_foreign_sets(autoglm, a_set, model, tmp_path):
    def refused(content, *words):
        a_set.write_text(content)
        compress(autoglm, tmp_path, "--calibration-dataset", a_set, "--verify", "none").refused(BAD_INPUT, "set.jsonl", *words)

    whole = a_set.read_text()
    lines = whole.splitlines(keepends=True)
    refused("".join(lines[:-1]), "cut short", "5 of 6")
    refused(whole[:-30], "set.jsonl:7")
    refused(lines[0] + "no JSON\n" + "".join(lines[2:]), "set.jsonl:2")
    refused(whole.replace('{"tokens":[', '{"tokens":[123456,', 1), "set.jsonl:2", "123456")
    refused(whole.replace('"tokenizer":"', '"tokenizer":"0', 1), "another model's tokenizer", "calibrate build")
    refused(whole.replace('"calibration_set":1', '"calibration_set":9'), "set.jsonl:1", "version 9")
    a_set.write_text(whole)
    short = tmp_path / "short"
    shutil.copytree(DEMO, short, ignore=shutil.ignore_patterns("tasks"))
    set_config(short, max_position_embeddings=32)
    compress(autoglm, tmp_path, "--calibration-dataset", a_set, model=short).refused(BAD_INPUT, "up to 64", "--length 32")
    compress(autoglm, tmp_path, "--calibration-dataset", a_set, model=model()).refused(BAD_INPUT, "tokenizer")
    assert leftovers(tmp_path) == ["model", "set.jsonl", "short"]


# How far text lies from what is evaluated.

def test_shift_tells_near_from_far(autoglm, tmp_path):
    far = tmp_path / "far.txt"
    far.write_text("0 1 0 1 1 0 " * 4000)
    tasks = DEMO / "tasks"
    out = autoglm("calibrate", "shift", DEMO, tasks / "calibration.jsonl", far, "--eval-dataset", tasks / "train.jsonl",
                  "--samples", "6", "--length", "64", "--json")
    assert out.code == 0, out.err
    report = json.loads(out.out)
    near, far = report["sets"]
    assert near["tokens"] == far["tokens"] == 6 * 64
    mean = lambda of, name: sum(i[name] for i in of["inputs"]) / len(of["inputs"])
    for name in ("distance", "channel_distance", "error"):
        assert mean(near, name) < mean(far, name), name
    assert report["rank_correlation"]["channel_distance"]["pooled"] > 0.3
    assert "does not look like" in out.err and "far.txt" in out.err


@pytest.mark.parametrize("arguments, code, words", [
    ((DEMO,), USAGE, "no text given"),
    ((DEMO, "self"), USAGE, "--eval-dataset"),
    ((DEMO, "self", "--eval-dataset", "missing.txt"), BAD_INPUT, "missing.txt"),
    ((DEMO, "self", "--eval-dataset", "self", "-q", "w8a8"), USAGE, "weight-only"),
    ((DEMO, TASKS, "--eval-dataset", TASKS, "--max-ram", "1M"), RESOURCES, "memory"),
])
def test_shift_says_what_is_wrong(autoglm, arguments, code, words):
    autoglm("calibrate", "shift", *arguments, "--quiet").refused(code, words)
