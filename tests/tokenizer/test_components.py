"""Every component of tokenizer.json alone, against the `tokenizers` package: a small BPE model that merges across words
shows in its ids how the text was split."""

import copy
import json
import random
import unicodedata

import corpus
import pytest
import reference
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+")
KIMI = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"

# Constructs in which Oniguruma and PCRE2 differ.
PATTERNS = [r"\s+", r"\S+", r"\w+", r"\W", r"\d", r"\D+", r"\h+", r"[\h\s]+", r"\b", r"\bthe\b", r"^.", r".$", r"(?m:a.+b)", r"a{2}+",
            r"[ab]{1,2}+c?", r"o{2}?", r"e{,2}n", r"[a-c[x-z]]+", r"[\w&&[^\d_]]+", r"[^\p{L}&&\S]+", r"[^a[b-d]]+", r"[[:punct:]]+",
            r"[[:^alpha:]]+", r"[[:space:][:digit:]]", r"\p{Han}+", r"\p{Hiragana}|\p{Cyrillic}", r"\p{^L}+", r"\P{Lu}+", r"[\P{L}\n]+", r"\p{Alphabetic}+",
            r"\p{Emoji}", r"\p{Uppercase_Letter}", r"\p{M}", r"\p{P}", r"\p{S}+", r"\p{Nd}", r"\u4e00|\x{4e86}", r"[\u4e00-\u9fff]+", r"(?=\d)", r"(?<=[a-z])(?=[A-Z])",
            r"(?<!\d)(?=(?:\d{3})+(?!\d))", r"(?i)THE|é", r"[-a\-z.-]+", r"[]a]", r"[\]\[]", r"[a\-\]^]", r"(?:a|b)++c", r"a*?b", r"x*",
            r"(?>\s+)\S", r"\R", r"\v|\f", r"{|}", r"a{x}", r"(?<q>['\"]).*?\k<q>", r"[\s\S]{1,7}", GPT4O, DEEPSEEK, KIMI]


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def metaspace(scheme, split=True, **more):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split, **more}


def byte_level(prefix, regex):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


PRE_TOKENIZERS = [
    None,
    *[split(" ", b, i, "String") for b in BEHAVIORS for i in (False, True)],
    *[split(r"\d+|\s", b, i) for b in BEHAVIORS for i in (False, True)],
    split("", "Isolated", False, "String"), split("the", "MergedWithNext", False, "String"), split("a.b*[", "Isolated", False, "String"),
    *[metaspace(s, sp) for s in ("always", "first", "never") for sp in (True, False)],
    {"type": "Digits", "individual_digits": True}, {"type": "Digits", "individual_digits": False},
    {"type": "Whitespace"}, {"type": "WhitespaceSplit"},
    *[{"type": "Punctuation", "behavior": b} for b in BEHAVIORS],
    {"type": "CharDelimiterSplit", "delimiter": "e"},
    sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("first"), {"type": "Digits", "individual_digits": True}),
    sequence("pretokenizers", sequence("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}), metaspace("always")),
]
BYTE_LEVEL = [
    byte_level(False, True), byte_level(True, True), byte_level(True, False),
    sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(False, True)),  # SmolLM2
    sequence("pretokenizers", {"type": "Punctuation", "behavior": "Contiguous"}, byte_level(False, True),  # Falcon
             {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]", "Isolated")),
    sequence("pretokenizers", split(GPT4O), byte_level(False, False)),
]
NORMALIZERS = [
    {"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"},
    {"type": "StripAccents"}, sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}),
    {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": False, "strip_right": True}, {"type": "Strip", "strip_left": False, "strip_right": False},
    {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁"), replace(r"\s{2,}", " ", "Regex"), replace("a", ""), replace(r"x*", "-", "Regex"),
    sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
    sequence("normalizers", sequence("normalizers", {"type": "Lowercase"}), {"type": "NFKC"}),
    {"type": "ByteLevel"},
]
DECODERS = [
    None, {"type": "Fuse"}, {"type": "ByteFallback"}, byte_level(True, True), {"type": "Metaspace", "replacement": "e", "prepend_scheme": "always"},
    {"type": "Metaspace", "replacement": "e", "prepend_scheme": "never"}, {"type": "BPEDecoder", "suffix": "e"},
    replace("e", "EE"), replace("th", "T"), replace("[aeiou]", "", "Regex"),
    sequence("decoders", replace("e", "▁"), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
    sequence("decoders", {"type": "Fuse"}, replace("th", "T"), {"type": "Strip", "content": "e", "start": 2, "stop": 0}),
    sequence("decoders", {"type": "Fuse"}, replace("e", "EE"), {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}),
    {"type": "Strip", "content": "e", "start": 1, "stop": 0}, {"type": "Strip", "content": " ", "start": 3, "stop": 0},
    sequence("decoders", byte_level(True, True), {"type": "Strip", "content": " ", "start": 2, "stop": 0}),
]
FLAGS = ["single_word", "lstrip", "rstrip", "normalized", "special"]


@pytest.fixture(scope="module")
def base():
    """A trained model whose tokens span words; merges as pairs."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    text = [t.decode("utf-8", errors="replace") for t in corpus.texts(150_000, seed=2)]
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(vocab_size=3000, special_tokens=["<unk>"], show_progress=False))
    spec = json.loads(tokenizer.to_str())
    spec["pre_tokenizer"] = None
    spec["added_tokens"] = []
    return spec


@pytest.fixture(scope="module")
def byte_base():
    spec = json.loads((reference.DEMO / "tokenizer.json").read_text())
    spec["post_processor"] = spec["normalizer"] = None
    return spec


TEXTS = corpus.texts(60_000 // reference.DIVISOR, seed=11) + [t.encode() for t in ("the  The\tTHE", "aab aaab aaaab", "x_y z", "1234567 89", " lead", "trail ", "''\"q\"")]


def check(spec, tmp_path, texts=TEXTS):
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    other = Tokenizer.from_str(json.dumps(spec))
    as_str = [t.decode("utf-8", errors="replace") for t in texts]
    expected = [e.ids for e in other.encode_batch(as_str)]
    reference.assert_same(texts, expected, reference.encode(tmp_path, texts, "--add-special"))
    reference.assert_same(expected, other.decode_batch(expected), reference.decode(tmp_path, expected, "--skip-special"))


@pytest.mark.parametrize("pre_tokenizer", PRE_TOKENIZERS, ids=str)
def test_pre_tokenizer(base, pre_tokenizer, tmp_path):
    check({**base, "pre_tokenizer": pre_tokenizer}, tmp_path)


@pytest.mark.parametrize("pre_tokenizer", BYTE_LEVEL, ids=str)
def test_byte_level(byte_base, pre_tokenizer, tmp_path):
    check({**byte_base, "pre_tokenizer": pre_tokenizer}, tmp_path)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regex(base, pattern, tmp_path):
    check({**base, "pre_tokenizer": split(pattern)}, tmp_path)


def in_unicode_3(text):
    """The reference's tables for compatibility forms, case and marks are older or newer than ours, depending on its
    version; they agree on what Unicode 3.2 has."""
    text = text.decode("utf-8", errors="replace")
    return "".join(c if unicodedata.ucd_3_2_0.category(c) != "Cn" else "?" for c in text).encode()


@pytest.mark.parametrize("normalizer", NORMALIZERS, ids=str)
def test_normalizer(base, normalizer, tmp_path):
    texts = TEXTS if normalizer["type"] == "NFC" else list(map(in_unicode_3, TEXTS))
    check({**base, "normalizer": normalizer}, tmp_path, texts)


@pytest.mark.parametrize("decoder", DECODERS, ids=str)
def test_decoder(base, decoder, tmp_path):
    check({**base, "decoder": decoder}, tmp_path)


@pytest.mark.parametrize("options", [
    {"fuse_unk": True}, {"unk_token": None}, {"byte_fallback": True}, {"byte_fallback": True, "fuse_unk": True, "some bytes": True},
    {"ignore_merges": True}, {"end_of_word_suffix": "e"}, {"continuing_subword_prefix": "", "end_of_word_suffix": ""}, {"legacy merges": True},
], ids=str)
def test_model_options(base, options, tmp_path):
    spec = copy.deepcopy(base)
    spec["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    model = spec["model"]
    rare = set(sorted(model["vocab"])[::7])  # so that some characters are unknown
    model["merges"] = [m for m in model["merges"] if not rare & {m[0], m[1], m[0] + m[1]}]
    model["vocab"] = {t: i for t, i in model["vocab"].items() if t not in rare}
    if options.get("byte_fallback"):
        for b in range(0, 256, 3 if options.get("some bytes") else 1):
            model["vocab"][f"<0x{b:02X}>"] = 5000 + b
    if options.get("legacy merges"):
        model["merges"] = ["#version: 0.2", *[" ".join(m) for m in model["merges"] if " " not in "".join(m)]]
    model.update({k: v for k, v in options.items() if k in model})
    model["vocab"]["<unk>"] = 0
    check(spec, tmp_path)


def test_continuing_subword_prefix(tmp_path):
    letters = "abcdeh"
    vocab = {t: i for i, t in enumerate(["<unk>", *letters, *("##" + c for c in letters), "ab", "##cd", "abcd", "##de"])}
    merges = [["a", "##b"], ["##c", "##d"], ["ab", "##cd"], ["##d", "##e"]]
    model = {"type": "BPE", "unk_token": "<unk>", "continuing_subword_prefix": "##", "vocab": vocab, "merges": merges}
    spec = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    rng = random.Random(4)
    texts = ["".join(rng.choice(letters + " x") for _ in range(rng.randint(0, 30))).encode() for _ in range(500)]
    check(spec, tmp_path, texts)


@pytest.mark.parametrize("seed", range(12))
def test_added_tokens(base, seed, tmp_path):
    rng = random.Random(seed)
    spec = copy.deepcopy(base)
    spec["normalizer"] = rng.choice([None, {"type": "Lowercase"}, sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁"))])
    spec["pre_tokenizer"] = rng.choice([None, {"type": "WhitespaceSplit"}, metaspace("first"), byte_level(True, True)])
    contents = ["the", "th", "The", "he ", "<s>", "<s", "s>", "é", "的", "的一", "  ", "\n", "x", "xy", "and", "<|user|>", "<|", "|>", "😀", "1"]
    size = len(base["model"]["vocab"])
    if spec["normalizer"] == {"type": "Lowercase"}:
        contents.remove("The")  # normalized, it would be "the" once more
    for content in rng.sample(contents, 12):
        flags = {f: rng.random() < 0.35 for f in FLAGS}
        known = base["model"]["vocab"].get(content)
        spec["added_tokens"].append({"id": size if known is None else known, "content": content, **flags})
        size += known is None
    pieces = contents + [" ", "a", "B", "\u3000", "1", "_", "the", "中", "\u200d"]
    texts = ["".join(rng.choice(pieces) for _ in range(rng.randint(0, 25))).encode() for _ in range(1500)]
    other = Tokenizer.from_str(json.dumps(spec))
    check(spec, tmp_path, [t for t in texts + TEXTS[:40] if survives(other, t)])


@pytest.mark.parametrize("next_is_taken", [False, True])
def test_gaps_in_the_vocabulary(base, next_is_taken, tmp_path):
    spec = copy.deepcopy(base)
    vocab = spec["model"]["vocab"]
    size = len(vocab)
    for shift, token in enumerate(["e", "t", " ", "."]):
        vocab[token] = size + shift + (0 if next_is_taken else 9)
    for i, content in enumerate(["<s>", "</s>"]):
        spec["added_tokens"].append({"id": size + i, "content": content, **dict.fromkeys(FLAGS, False), "special": True})
    check(spec, tmp_path, [*TEXTS[:60], b"<s>the end.</s>"])
    every_id = [list(range(size + 20))]
    assert reference.decode(tmp_path, every_id) == Tokenizer.from_str(json.dumps(spec)).decode_batch(every_id, skip_special_tokens=False)


def survives(tokenizer, text):
    """The reference panics where stripped white space of two tokens overlaps."""
    try:
        tokenizer.encode(text.decode("utf-8", errors="replace"))
        return True
    except BaseException as error:
        if "PanicException" not in type(error).__name__:
            raise
        return False


@pytest.mark.parametrize("post_processor", [
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "E", "type_id": 0}}],
     "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
     "special_tokens": {"B": {"id": "B", "ids": [7, 8], "tokens": ["x", "y"]}, "E": {"id": "E", "ids": [9], "tokens": ["z"]}}},
    {"type": "BertProcessing", "sep": ["a", 5], "cls": ["b", 6]},
    {"type": "RobertaProcessing", "sep": ["a", 5], "cls": ["b", 6], "trim_offsets": True, "add_prefix_space": True},
    sequence("processors", byte_level(True, True), {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "B", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"B": {"id": "B", "ids": [7], "tokens": ["x"]}}}),
], ids=lambda p: p["type"])
def test_post_processor(base, post_processor, tmp_path):
    check({**base, "post_processor": post_processor}, tmp_path, TEXTS[:60])
