"""Our ids and texts are those of the `tokenizers` package, on the tokenizers of several families."""

import random

import corpus
import pytest
import reference
from tokenizers import Tokenizer

FAMILIES = ["demo", "gpt2", "llama3", "qwen2_5", "chatglm3", "gemma3"]
BYTES = 2_200_000 // reference.DIVISOR


@pytest.fixture(scope="module")
def texts():
    texts = corpus.texts(BYTES)
    assert sum(map(len, texts)) >= 2_000_000 // reference.DIVISOR
    return texts


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request):
    return reference.DEMO if request.param == "demo" else reference.fetch_npm(request.param)


def test_ids_and_decoded_text(folder, texts):
    other = Tokenizer.from_file(str(folder / "tokenizer.json"))
    as_str = [t.decode("utf-8", errors="replace") for t in texts]
    expected = [e.ids for e in other.encode_batch(as_str, add_special_tokens=False)]
    actual = reference.encode(folder, texts)
    reference.assert_same(texts, expected, actual)
    assert sum(map(len, actual)) == sum(map(len, expected))

    with_special = [e.ids for e in other.encode_batch(as_str[:300], add_special_tokens=True)]
    reference.assert_same(texts, with_special, reference.encode(folder, texts[:300], "--add-special"))

    for skip in (False, True):
        decoded = other.decode_batch(expected, skip_special_tokens=skip)
        reference.assert_same(expected, decoded, reference.decode(folder, expected, *["--skip-special"] * skip))


def test_special_tokens_as_plain_text(folder, texts):
    other = Tokenizer.from_file(str(folder / "tokenizer.json"))
    other.encode_special_tokens = True
    some = texts[:400]
    expected = [other.encode(t.decode("utf-8", errors="replace"), add_special_tokens=False).ids for t in some]
    reference.assert_same(some, expected, reference.encode(folder, some, "--no-parse-special"))


def test_every_code_point(folder):
    other = Tokenizer.from_file(str(folder / "tokenizer.json"))
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    # Between letters and digits, so that it shows how the character is classified.
    records = ["".join(f"a{c}b {c}1{c}{c} " for c in characters[i : i + 64]) for i in range(0, len(characters), 64)]
    if folder != reference.DEMO or reference.DIVISOR > 1:
        records = records[: 0x12000 // 64]  # the rest is ideographs and symbols, like others before, or unassigned
    expected = [e.ids for e in other.encode_batch(records, add_special_tokens=False)]
    actual = reference.encode(folder, [r.encode() for r in records])
    reference.assert_same(records, expected, actual)


def test_decoding_random_ids(folder):
    other = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rng = random.Random(7)
    size = other.get_vocab_size()
    sequences = [[rng.randrange(size) for _ in range(rng.randint(0, 40))] for _ in range(4000)]
    reference.assert_same(sequences, other.decode_batch(sequences, skip_special_tokens=False),
                          reference.decode(folder, sequences))


def test_long_words_take_linear_time(folder):
    """A text without a break: the ids agree, and eight times the text takes about eight times the time, not 64 times."""
    other = Tokenizer.from_file(str(folder / "tokenizer.json"))
    patterns = ("a", " ", "\n", "ab1", "中文", "!?")
    texts = [pattern * (300_000 // reference.DIVISOR // len(pattern)) for pattern in patterns]
    expected = [e.ids for e in other.encode_batch(texts, add_special_tokens=False)]
    reference.assert_same(texts, expected, reference.encode(folder, [t.encode() for t in texts]))

    # The limit lies between the two powers, far from both: caches, and other programs, slow down what is long.
    whole = [text.encode() for text in texts]
    eighths = [text[: len(text) // 8].encode() for text in texts]
    times = reference.seconds(folder, whole + eighths)
    slow = [each for each in zip(patterns, times[len(texts) :], times) if each[2] > 24 * each[1] + 0.005]
    assert not slow, "pattern, seconds for an eighth, seconds for all"
