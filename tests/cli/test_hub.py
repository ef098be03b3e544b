"""Models named by a Hugging Face id: downloaded from a server that speaks the hub's interface, with what goes wrong on the way."""
import hashlib
import http.server
import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import AUTOGLM, BAD_INPUT, CANCELLED, DEMO, RESOURCES, USAGE
from safetensors.torch import load, save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "org/demo"
FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


class Hub:
    """What the server has, and how it misbehaves; `requests` are those that came."""

    def __init__(self, folder):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.token, self.drop_after, self.ranges, self.status, self.damaged, self.slow = None, 0, True, {}, {}, 0
        self.redirect, self.requests, self.retry_after = False, [], "1"
        self.lock, self.sending, self.shards_at_once = threading.Lock(), [], 0

    def listing(self):
        siblings = []
        for name, data in self.files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
            if len(data) > 10_000:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            siblings.append(entry)
        return json.dumps({"sha": COMMIT, "siblings": siblings}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        hub, path = self.server.hub, self.path.split("?")[0]
        hub.requests.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        name = path.split(f"/resolve/{COMMIT}/")[-1].removeprefix("/elsewhere/")
        left = hub.status.get(name, hub.status.get("*"))
        if left and left[1] > 0:
            left[1] -= 1
            return self.answer(left[0], **({"Retry_After": hub.retry_after} if left[0] == 429 else {}))
        if path.startswith("/elsewhere/"):  # a token is for its host alone
            return self.answer(500) if self.headers.get("Authorization") else self.send_file(name)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(401)
        if path in (f"/api/models/{ID}/revision/main", f"/api/models/{ID}/revision/{COMMIT}", f"/api/models/{ID}/revision/refs%2Fpr%2F1"):
            return self.answer(200, hub.listing())
        if path.startswith(f"/{ID}/resolve/{COMMIT}/") and name in hub.files:
            if hub.redirect:
                return self.answer(302, Location=f"http://localhost:{self.server.server_port}/elsewhere/{name}")
            return self.send_file(name)
        self.answer(404)

    def send_file(self, name):
        hub, data, first = self.server.hub, self.server.hub.files[name], 0
        if hub.damaged.get(name, 0) > 0:
            hub.damaged[name] -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        if hub.ranges and (header := self.headers.get("Range")):
            first = int(header.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", len(data) - first)
        self.end_headers()
        end = len(data)
        if hub.drop_after and end - first > hub.drop_after:
            end = first + hub.drop_after
        try:
            with hub.lock:
                hub.sending.append(name)
                hub.shards_at_once = max(hub.shards_at_once, sum(shard.endswith(".safetensors") for shard in hub.sending))
            for at in range(first, end, 1 << 16):
                self.wfile.write(data[at:min(at + (1 << 16), end)])
                time.sleep(hub.slow)
        finally:
            with hub.lock:
                hub.sending.remove(name)
        self.close_connection = end < len(data)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hub = Hub(DEMO)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    yield server.hub
    server.shutdown()
    server.server_close()


def repository(tmp_path):
    return tmp_path / "hf" / "hub" / "models--org--demo"


def compress(autoglm, tmp_path, *options):
    return autoglm("compress", ID, "-q", "int8", "--method", "rtn", "--verify", "none", "-o", tmp_path / "out", *options)


def check_whole(hub, tmp_path):
    snapshot = repository(tmp_path) / "snapshots" / COMMIT
    assert (repository(tmp_path) / "refs" / "main").read_text() == COMMIT
    for name in FILES:
        assert (snapshot / name).is_symlink() and (snapshot / name).read_bytes() == hub.files[name]
    assert not list(repository(tmp_path).glob("blobs/*.autoglm-part"))


def test_a_model_is_downloaded_once(autoglm, hub, tmp_path, monkeypatch):
    hub.files |= {"pytorch_model.bin": b"x" * 20_000, "../evil.json": b"{}", "onnx/model.safetensors": b"x", "consolidated.safetensors": b"x" * 20_000,
                  ".gitattributes": b"x"}
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)
    names = {path.rsplit("/", 1)[-1] for path, _, _ in hub.requests}
    assert {"pytorch_model.bin", "evil.json", ".gitattributes", "consolidated.safetensors"} & names == set()
    assert not any("/onnx/" in path for path, _, _ in hub.requests)
    asked = len(hub.requests)
    assert compress(autoglm, tmp_path, "--overwrite").code == 0
    assert len(hub.requests) == asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert autoglm("inspect", ID, "--json").code == 0
    assert autoglm("compress", DEMO, "-q", "int8", "--method", "rtn", "--verify", "none", "-o", tmp_path / "local").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "local" / "model.safetensors").read_bytes()


def test_a_plan_downloads_no_weights(autoglm, hub, tmp_path):
    done = autoglm("compress", ID, "-q", "int4", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert autoglm("inspect", ID).code == 0
    assert not any(path.endswith(".safetensors") for path, _, _ in hub.requests)
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)


def test_dropped_connections_are_resumed(autoglm, hub, tmp_path):
    hub.drop_after = 2_500_000
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)
    parts = [header for path, header, _ in hub.requests if path.endswith("model.safetensors")]
    assert parts[0] is None and parts[1] == "bytes=2500000-" and len(parts) == 7


def test_a_server_without_ranges_sends_it_all_again(autoglm, hub, tmp_path):
    part = repository(tmp_path) / "blobs" / (hashlib.sha256(hub.files["model.safetensors"]).hexdigest() + ".autoglm-part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    hub.ranges = False
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)


def test_what_came_before_is_used(autoglm, hub, tmp_path):
    data = hub.files["model.safetensors"]
    part = repository(tmp_path) / "blobs" / (hashlib.sha256(data).hexdigest() + ".autoglm-part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:1000])
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)
    assert [header for path, header, _ in hub.requests if path.endswith("model.safetensors")] == ["bytes=1000-"]


def test_damage_is_fetched_again_once(autoglm, hub, tmp_path):
    hub.damaged["model.safetensors"] = 1
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)


def test_damage_that_stays_is_an_error(autoglm, hub, tmp_path):
    hub.damaged["model.safetensors"] = 99
    compress(autoglm, tmp_path).refused(BAD_INPUT, "model.safetensors", "SHA-256")
    assert not (repository(tmp_path) / "refs" / "main").exists() and not (tmp_path / "out").exists()
    assert not list(repository(tmp_path).glob("blobs/*.autoglm-part"))


@pytest.mark.parametrize("status,words", [(401, ("HF_TOKEN",)), (403, ("HF_TOKEN",)), (404, ("not found",)), (418, ("418",))])
def test_refusals_are_said(autoglm, hub, tmp_path, status, words):
    hub.status["*"] = [status, 99]
    compress(autoglm, tmp_path).refused(BAD_INPUT, ID, *words)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_is_tried_again(autoglm, hub, tmp_path, status):
    hub.status["model.safetensors"] = [status, 2]
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)


def test_a_token_goes_to_its_host_alone(autoglm, hub, tmp_path, monkeypatch):
    hub.token, hub.redirect = "secret", True
    compress(autoglm, tmp_path).refused(BAD_INPUT, "HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)


def test_other_weights_and_revisions(autoglm, hub, tmp_path):
    weights = hub.files.pop("model.safetensors")
    hub.files["pytorch_model.bin"] = weights
    compress(autoglm, tmp_path).refused(BAD_INPUT, "safetensors", "PyTorch")
    autoglm("compress", f"{ID}@v9", "-q", "int8", "-o", tmp_path / "out").refused(BAD_INPUT, "not found", "v9")
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../../x", "b": "model.safetensors"}}).encode()
    compress(autoglm, tmp_path).refused(BAD_INPUT)


def test_one_contents_under_two_names(autoglm, hub, tmp_path):
    hub.files["additional_chat_templates/tool_use.jinja"] = hub.files["chat_template.jinja"] = b"{{ messages }}" * 1000
    assert compress(autoglm, tmp_path).code == 0
    snapshot = repository(tmp_path) / "snapshots" / COMMIT
    assert (snapshot / "additional_chat_templates" / "tool_use.jinja").read_bytes() == hub.files["chat_template.jinja"]
    check_whole(hub, tmp_path)


def test_a_revision_with_slashes(autoglm, hub, tmp_path, monkeypatch):
    command = ["compress", f"{ID}@refs/pr/1", "-q", "int8", "--method", "rtn", "--verify", "none", "--overwrite", "-o", tmp_path / "out"]
    assert autoglm(*command).code == 0
    assert (repository(tmp_path) / "refs" / "refs" / "pr" / "1").read_text() == COMMIT
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert autoglm(*command).code == 0


@pytest.mark.parametrize("revision", ["/tmp/x", "a//b", "../x", "a/", "@"])
def test_revisions_that_are_none(autoglm, hub, tmp_path, revision):
    autoglm("compress", f"{ID}@{revision}", "-q", "int8", "-o", tmp_path / "out").refused(BAD_INPUT, "no such folder")
    assert hub.requests == []


def test_an_endpoint_without_a_scheme(autoglm, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    compress(autoglm, tmp_path).refused(USAGE, "HF_ENDPOINT", "https://")


def test_a_shard_that_is_missing_leaves_no_partial_snapshot(autoglm, hub, tmp_path):
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}).encode()
    hub.files["a.safetensors"], hub.files["b.safetensors"] = b"a" * 20_000, b"b" * 20_000
    hub.status["b.safetensors"] = [404, 9]
    compress(autoglm, tmp_path).refused(BAD_INPUT, "b.safetensors", "404")
    assert not list((repository(tmp_path) / "snapshots" / COMMIT).glob("*.safetensors"))
    assert autoglm("inspect", ID).code == 0


def test_shards_come_side_by_side(autoglm, hub, tmp_path):
    tensors = load(hub.files.pop("model.safetensors"))
    names, index = sorted(tensors), {}
    for i in range(3):
        shard = {name: tensors[name] for name in names[i::3]}
        hub.files[f"model-{i + 1}-of-3.safetensors"] = save(shard, {"format": "pt"})
        index |= dict.fromkeys(shard, f"model-{i + 1}-of-3.safetensors")
    hub.files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": index}).encode()
    hub.files["model-4-of-4.safetensors"] = b"x" * 20_000  # in no index
    hub.slow = 0.005
    assert compress(autoglm, tmp_path).code == 0
    snapshot = repository(tmp_path) / "snapshots" / COMMIT
    assert sorted(path.name for path in snapshot.glob("*.safetensors")) == [f"model-{i}-of-3.safetensors" for i in (1, 2, 3)]
    assert all((snapshot / name).read_bytes() == hub.files[name] for name in set(index.values()))
    assert hub.shards_at_once > 1
    assert autoglm("compress", DEMO, "-q", "int8", "--method", "rtn", "--verify", "none", "-o", tmp_path / "local").code == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "local" / "model.safetensors").read_bytes()


def test_a_commit_is_a_revision(autoglm, hub, tmp_path):
    command = ["compress", f"{ID}@{COMMIT}", "-q", "int8", "--method", "rtn", "--verify", "none", "--overwrite", "-o", tmp_path / "out"]
    assert autoglm(*command).code == 0
    assert not (repository(tmp_path) / "refs").exists()
    asked = len(hub.requests)
    assert autoglm(*command).code == 0 and len(hub.requests) == asked


def test_a_token_that_was_logged_in_with(autoglm, hub, tmp_path):
    hub.token = "secret"
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("secret\n")
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)


def test_progress_is_told(autoglm, hub, tmp_path):
    hub.slow = 0.02
    done = compress(autoglm, tmp_path)
    assert done.code == 0 and "download" in done.err, done.err


def test_a_wait_that_is_too_long_is_not_waited_for(autoglm, hub, tmp_path):
    hub.status["*"], hub.retry_after = [429, 99], "9223372036854775807"
    compress(autoglm, tmp_path).refused(BAD_INPUT, "429")


@pytest.mark.parametrize("listing", [b"", b"[]", b"{}", b'{"sha": "../..", "siblings": []}', b'{"sha": "%s"}' % COMMIT.encode(),
                                     b'{"sha": "%s", "siblings": [{"rfilename": "config.json", "size": -1}]}' % COMMIT.encode(),
                                     b'{"sha": "%s", "siblings": [7, null, {"rfilename": 3}]}' % COMMIT.encode(), b"<html>"])
def test_answers_that_are_none(autoglm, hub, tmp_path, listing):
    hub.listing = lambda: listing
    compress(autoglm, tmp_path).refused(BAD_INPUT)
    assert not (tmp_path / "out").exists()


def test_a_hub_that_is_not_there(autoglm, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    compress(autoglm, tmp_path).refused(BAD_INPUT, "127.0.0.1:9")


def test_a_full_disk(autoglm, hub, small_disk, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(small_disk))
    compress(autoglm, tmp_path).refused(RESOURCES, "free")


def test_ctrl_c_keeps_what_has_come(autoglm, hub, tmp_path):
    hub.slow = 0.02
    process = subprocess.Popen([AUTOGLM, "compress", ID, "-q", "int8", "-o", tmp_path / "out"], stderr=subprocess.PIPE, text=True)
    part = repository(tmp_path) / "blobs" / (hashlib.sha256(hub.files["model.safetensors"]).hexdigest() + ".autoglm-part")
    while not (part.exists() and part.stat().st_size > 1_000_000):
        time.sleep(0.01)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CANCELLED, err
    assert time.monotonic() - asked < 2
    assert 0 < part.stat().st_size < len(hub.files["model.safetensors"])
    hub.slow = 0
    assert compress(autoglm, tmp_path).code == 0
    check_whole(hub, tmp_path)


def test_transformers_finds_what_was_downloaded(autoglm, hub, tmp_path, monkeypatch):
    assert compress(autoglm, tmp_path).code == 0
    script = f"import transformers; print(transformers.AutoModelForCausalLM.from_pretrained('{ID}').config.model_type)"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "glm4", done.stderr
