"""What autoglm-edge says, how large it is, and what it refuses."""
import json
import os
import pty
import re
import resource
import select
import shlex
import signal
import subprocess
import time

import pytest
from conftest import AUTOGLM, DEMO, EDGE, PROMPT, ROOT, SANITIZED, run_program

USAGE, BAD_INPUT, RESOURCES, CANCELLED = 2, 3, 5, 130
COMMANDS = ("generate", "chat", "bench", "pack", "inspect", "version")

# What transformers' generate gives for PROMPT in the demo model's chat template, without sampling.
ANSWER_END = '<think>Search is here</think>\ndo(action="Tap", element="Search")\n'


@pytest.fixture(scope="module", params=["stored", "packed"])
def model(request, tmp_path_factory):
    """The demo model as it is stored, and packed."""
    if request.param == "stored":
        return DEMO
    out = tmp_path_factory.mktemp("packed") / "model"
    run_program(EDGE, "pack", DEMO, "-o", out, "--quiet").answered()
    return out


# The program itself.

def libraries():
    listing = subprocess.run(["ldd", EDGE], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(\S+) => (/\S+)", listing)


def test_links_no_torch():
    names = [name for name, _ in libraries()]
    assert any(name.startswith("libstdc++") for name in names)  # the list is one
    assert not [name for name in names if re.match(r"lib(torch|c10|python|gomp|mkl)", name)]


@pytest.mark.skipif(SANITIZED or os.environ.get("AUTOGLM_BUILD_TYPE", "Release") != "Release", reason="a release's size")
def test_is_small(tmp_path):
    """Stripped, with all that it loads but the C and C++ runtime."""
    runtime = re.compile(r"lib(c|m|stdc\+\+|gcc_s)\.so")
    parts = [EDGE] + [path for name, path in libraries() if not runtime.match(name)]
    sizes = {}
    for i, part in enumerate(parts):
        subprocess.run(["strip", "-o", tmp_path / str(i), os.path.realpath(part)], check=True)
        sizes[str(part)] = (tmp_path / str(i)).stat().st_size
    assert sum(sizes.values()) < 5_000_000, sizes


@pytest.mark.parametrize("command", COMMANDS)
def test_example_of_the_help_works(edge, command, tmp_path):
    text = edge(command, "--help").answered()
    example = text[text.index("Example:\n  ") + len("Example:\n  "):].strip()
    words = shlex.split(example)
    assert words[0] == "autoglm-edge"
    if command == "bench":
        words += ["--runs", "3", "--repeats", "1", "--prompt-tokens", "8"]
    if command == "pack":
        words[-1] = str(tmp_path / words[-1])
    assert edge(*words[1:], cwd=ROOT, input="hello\n").answered()


# What it says.

def test_greedy_text_is_that_of_the_reference(edge):
    text = edge("generate", DEMO, "-p", PROMPT).answered()
    assert text.endswith(ANSWER_END)
    if AUTOGLM:
        assert text == run_program(AUTOGLM, "generate", DEMO, "-p", PROMPT).answered()


@pytest.mark.skipif(not AUTOGLM, reason="needs the compressor")
@pytest.mark.parametrize("kind", ["int8", "int4-g32", "int4-g32-asym", "w8a8"])
def test_artifacts_give_the_text_of_the_reference(edge, tmp_path, kind):
    out = tmp_path / "out"
    run_program(AUTOGLM, "compress", DEMO, "-o", out, "-q", kind, "--method", "rtn", "--verify", "none",
                "--quiet").answered()
    expected = run_program(AUTOGLM, "generate", out, "-p", PROMPT, "-n", "24").answered()
    assert edge("generate", out, "-p", PROMPT, "-n", "24").answered() == expected


def test_json_says_the_same_and_counts(edge):
    plain = edge("generate", DEMO, "-p", PROMPT).answered()
    result = json.loads(edge("generate", DEMO, "-p", PROMPT, "--json").answered())
    assert result["text"] + "\n" == plain
    assert result["finish"] == "end" and result["prompt_tokens"] > 5 and result["new_tokens"] > 5
    short = json.loads(edge("generate", DEMO, "-p", PROMPT, "--json", "-n", "3").answered())
    assert short["finish"] == "length" and short["new_tokens"] == 3


def test_prompt_comes_from_standard_input(edge):
    assert edge("generate", DEMO, input=PROMPT).answered() == edge("generate", DEMO, "-p", PROMPT).answered()


def test_sampling_follows_the_seed(edge):
    def text(seed):
        return edge("generate", DEMO, "-p", PROMPT, "--temperature", "1.5", "--seed", seed).answered()

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(6)}) > 1


def test_threads_and_chunks_change_nothing(edge):
    texts = {edge("generate", DEMO, "-p", PROMPT, "--threads", n).answered() for n in (1, 2, 3)}
    assert len(texts) == 1


def test_stop_text_and_bias(edge):
    assert edge("generate", DEMO, "-p", PROMPT, "--stop", "Task:").answered().count("Task") == 0
    biased = edge("generate", DEMO, "-p", PROMPT, "--logit-bias", "300=1000", "-n", "4", "--json").answered()
    assert json.loads(biased)["new_tokens"] == 4


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_invalid_utf8_is_replaced(edge, command):
    def said(text):
        result = json.loads(edge(command, DEMO, "-n", "6", "--json", input=text, errors="surrogateescape").answered())
        return result["prompt_tokens"], result["text"]

    assert said("tap \udcff Save") == said("tap \ufffd Save") != said("tap  Save")


def test_a_smaller_cache_says_the_same(edge):
    assert edge("generate", DEMO, "-p", PROMPT, "--kv", "int8").answered().endswith(ANSWER_END)
    limited = edge("generate", DEMO, "-p", PROMPT, "--context", "1024", "--kv-size", "2M")
    assert limited.answered().endswith(ANSWER_END)
    edge("generate", DEMO, "-p", PROMPT, "--kv-size", "1k").refused(RESOURCES, "cache", "1.00 kB", "page")


class Terminal:
    """A program that believes it talks with a person."""

    def __init__(self, *command):
        self.leader, follower = pty.openpty()
        self.process = subprocess.Popen([str(word) for word in command], stdin=follower, stdout=follower,
                                        stderr=subprocess.PIPE)
        os.close(follower)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        os.close(self.leader)

    def say(self, line):
        os.write(self.leader, line.encode() + b"\n")

    def until(self, end):
        """What it shows, up to `end`."""
        shown, deadline = b"", time.monotonic() + 60
        while not shown.endswith(end.encode()):
            assert select.select([self.leader], [], [], max(0, deadline - time.monotonic()))[0], shown
            shown += os.read(self.leader, 65536)
        return shown.decode().replace("\r\n", "\n")


def test_chat_in_a_terminal_answers_and_ends_at_ctrl_c(edge):
    (answer,) = edge("chat", DEMO, "-n", "12", input="hello\n").answered().splitlines()
    with Terminal(EDGE, "chat", DEMO, "-n", "12") as chat:
        assert "Ctrl-D" in chat.until("> ")
        chat.say("hello")
        assert chat.until("\n> ") == f"hello\n{answer}\n> "
        chat.process.send_signal(signal.SIGINT)
        _, err = chat.process.communicate(timeout=30)
        assert (chat.process.returncode, err.decode().strip()) == (CANCELLED, "autoglm-edge: cancelled")


def test_chat_goes_on_from_what_was_said(edge):
    lines = edge("chat", DEMO, "--json", "-n", "20", input="App: Clock\n/reset\nhello\nagain\n/exit\nnever\n").answered()
    turns = [json.loads(line) for line in lines.splitlines()]
    assert len(turns) == 3
    assert turns[1]["prompt_tokens"] < turns[2]["prompt_tokens"]
    assert turns[2]["shared_tokens"] > 0


def test_bench_reports_numbers(edge):
    result = json.loads(edge("bench", DEMO, "--batch", "1,3", "--runs", "10", "--prompt-tokens", "20", "--json").answered())
    assert [row["batch"] for row in result["results"]] == [1, 3]
    for row in result["results"]:
        step = row["step_ms"]
        assert 0 < step["min"] <= step["median"] <= step["p95"] <= step["p99"] <= step["max"]
        assert row["decode_tokens_per_second"] == pytest.approx(1000 * row["batch"] / step["mean"], rel=1e-6)
        assert row["prompt_tokens_per_second"] > 0
    assert result["peak_bytes"] > 1_000_000


def test_bench_compares_in_turns(edge, tmp_path):
    packed = tmp_path / "packed"
    edge("pack", DEMO, "-o", packed, "--quiet").answered()
    result = json.loads(edge("bench", DEMO, "--compare", packed, "--threads", "1,2", "--runs", "7", "--repeats", "2",
                             "--prompt-tokens", "8", "--json").answered())
    assert [(row["model"], row["threads"]) for row in result["results"]] == [
        (str(model), threads) for model in (DEMO, packed) for threads in (1, 2)]
    assert result["results"][0]["ratio"] == 1
    for row in result["results"]:
        assert row["ratio"] == pytest.approx(result["results"][0]["step_ms"]["median"] / row["step_ms"]["median"])
    assert {(model["model"], model["threads"]) for model in result["models"]} == {
        (row["model"], row["threads"]) for row in result["results"]}


def test_packed_models_say_the_same(edge, tmp_path):
    out = tmp_path / "packed"
    result = json.loads(edge("pack", DEMO, "-o", out, "--json", "--quiet").answered())
    assert result["bytes"] == pytest.approx(result["source_bytes"], rel=0.01)
    said = edge("generate", DEMO, "-p", PROMPT).answered()
    assert edge("generate", out, "-p", PROMPT).answered() == said
    shown = json.loads(edge("inspect", out, "--verify", "--json").answered())
    assert shown["verified"] and shown["memory"]["packed_weights"] == 0
    assert sum(kind["parameters"] for kind in shown["matrices"]) == 8388608


def test_a_packed_file_with_a_flipped_bit(edge, tmp_path):
    out = tmp_path / "packed"
    edge("pack", DEMO, "-o", out, "--quiet").answered()
    weights = out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    edge("inspect", out, "--verify").refused(BAD_INPUT, "checksum", "pack the model again")
    data[len(data) - 100] ^= 1  # packed.sha256, or packed.json before it
    weights.write_bytes(data)
    edge("generate", out, "-p", "x").refused(BAD_INPUT, "packed.json", "checksum")


def test_pack_keeps_what_stands(edge, tmp_path):
    out = tmp_path / "packed"
    edge("pack", DEMO, "-o", out, "--quiet").answered()
    edge("pack", DEMO, "-o", out).refused(USAGE, "exists", "--overwrite")
    edge("pack", out, "-o", tmp_path / "again").refused(USAGE, "packed already")
    edge("inspect", DEMO, "--verify").refused(USAGE, "checksums")
    edge("pack", DEMO, "-o", out, "--overwrite", "--quiet").answered()


def test_inspect_adds_up(edge):
    result = json.loads(edge("inspect", DEMO, "--json").answered())
    assert result["family"] == "glm4" and result["layers"] == 8
    assert sum(kind["parameters"] for kind in result["matrices"]) == 8388608
    half = json.loads(edge("inspect", DEMO, "--kv", "int8", "--json").answered())
    assert half["memory"]["cache"] < 0.6 * result["memory"]["cache"]


# Memory.

@pytest.mark.skipif(SANITIZED, reason="sanitizers occupy memory of their own")
def test_memory_is_predicted_and_kept(edge, model):
    result = json.loads(edge("bench", model, "--batch", "4", "--runs", "50", "--json").answered())
    predicted = result["models"][0]["predicted_bytes"]
    assert result["peak_bytes"] <= predicted
    limit = predicted - 2_000_000  # the cache must give way
    limited = json.loads(edge("bench", model, "--batch", "4", "--runs", "20", "--prompt-tokens", "16", "--json",
                              "--max-ram", limit).answered())
    assert limited["peak_bytes"] <= limit


def test_too_little_memory_is_said_before_loading(edge, model):
    edge("generate", model, "-p", "x", "--max-ram", "1M").refused(RESOURCES, "1.00 MB", "weights")


def test_a_refused_allocation_is_one_line(edge, model):
    if SANITIZED:
        pytest.skip("sanitizers reserve address space")
    megabytes = 1 << 20

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (60 * megabytes, 60 * megabytes))

    outcome = edge("bench", model, "--batch", "512", "--prompt-tokens", "900", preexec_fn=limit)
    outcome.refused(RESOURCES)


# Refusals.

def test_unknown_words_name_the_nearest(edge):
    edge("genrate").refused(USAGE, "genrate", "generate")
    edge("generate", DEMO, "-p", "x", "--thread", "2").refused(USAGE, "--thread", "--threads")
    edge("generate", DEMO, "-p", "x", "--compute", "fp16").refused(USAGE, "fp16", "int8")
    edge("generate", DEMO, "-p", "x", "--kv", "int4").refused(USAGE, "int4", "int8")


@pytest.mark.parametrize("options,word", [
    (("--temperature", "-1"), "temperature"), (("--top-p", "0"), "top_p"), (("-n", "0"), "max_new_tokens"),
    (("--threads", "-1"), "threads"), (("--context", "100000"), "max_context"), (("--logit-bias", "9"), "ID=VALUE"),
    (("--logit-bias", "999999=1"), "999999"), (("--max-ram", "lots"), "4G")])
def test_wrong_values(edge, options, word):
    edge("generate", DEMO, "-p", "x", *options).refused(USAGE, word)


def test_prompts_of_no_and_too_many_tokens(edge, model):
    edge("generate", model, "-p", "").refused(USAGE, "empty")
    edge("generate", model, "--raw", "-p", "tap " * 5000).refused(USAGE, "tokens", "2048")
    count = json.loads(edge("generate", model, "--raw", "-p", "tap tap", "-n", "1", "--json").answered())["prompt_tokens"]
    edge("generate", model, "--raw", "-p", "tap tap", "-n", "5", "--context", count).answered()
    edge("generate", model, "--raw", "-p", "tap tap", "--context", count - 1).refused(USAGE, "context")


def test_no_model_and_no_such_folder(edge):
    edge("generate", "-p", "x").refused(USAGE, "model folder")
    edge("inspect", "/nonexistent").refused(BAD_INPUT, "/nonexistent")


def test_truncated_weights(edge, demo):
    weights = demo / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 10)
    edge("generate", demo, "-p", "x").refused(BAD_INPUT, "model.safetensors")


def test_foreign_quantization(edge, demo):
    config = json.loads((demo / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (demo / "config.json").write_text(json.dumps(config))
    edge("generate", demo, "-p", "x").refused(BAD_INPUT, "awq", "config.json")


def test_missing_tensor(edge, demo):
    weights = demo / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data.replace(b"model.layers.3.mlp.down_proj", b"model.layers.3.mlp.dawn_proj", 1))
    edge("generate", demo, "-p", "x").refused(BAD_INPUT, "model.layers.3.mlp.down_proj", "missing")


def test_unknown_instruction_set(edge):
    edge("generate", DEMO, "-p", "x", env=os.environ | {"AUTOGLM_ISA": "sse9"}).refused(USAGE, "AUTOGLM_ISA", "generic")


def test_every_instruction_set_runs_and_says_the_same(edge):
    listed = edge("generate", DEMO, "-p", "x", env=os.environ | {"AUTOGLM_ISA": "none"}).err
    sets = listed.strip().split("choose one of ")[1].split(", ")
    assert sets[-1] == "generic"
    expected = edge("generate", DEMO, "-p", PROMPT).answered()
    for name in sets:
        environment = os.environ | {"AUTOGLM_ISA": name}
        assert edge("generate", DEMO, "-p", PROMPT, env=environment).answered() == expected
        ran = json.loads(edge("bench", DEMO, "--runs", "2", "--repeats", "1", "--prompt-tokens", "4", "--json", env=environment).answered())
        assert ran["models"][0]["kernels"] == name


def test_ctrl_c_ends_with_one_line(model):
    command = [EDGE, "bench", model, "--repeats", "1000", "--prompt-tokens", "1000", "--batch", ",".join(["1"] * 200)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == CANCELLED
    assert out == "" and err.strip() == "autoglm-edge: cancelled"
