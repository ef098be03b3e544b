"""tokenizer.model of both sorts: sentencepiece (Llama, ChatGLM) and tiktoken lines (GLM-4's first release)."""

import base64
import json
import random

import corpus
import pytest
import reference
import sentencepiece
import tiktoken

MODELS = ["botchan_en_bpe_1000", "botchan_en_unigram_1000", "kyoto_ja_unigram_8000"]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
GLM4_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
                r"\s*[\r\n]+|\s+(?!\S)|\s+")
GLM4_SPECIAL = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLES, "<|begin_of_image|>",
                "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]


def plain_texts(size):
    """Valid text without the special tokens, which the libraries know nothing of."""
    out = []
    for text in corpus.texts(size, seed=5):
        text = text.decode("utf-8", errors="replace")
        for special in corpus.SPECIALS:
            text = text.replace(special, "")
        out.append(text)
    return out


def trained(folder, model_type):
    """A small model with byte fallback and plain normalization, as Llama's and ChatGLM's are."""
    lines = [line for text in plain_texts(300_000) for line in text.split("\n") if 0 < len(line) < 2000 and "\0" not in line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=4000, model_type=model_type,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2, num_threads=1)
    return folder


@pytest.fixture(scope="module")
def llama_like(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("llama"), "bpe")


@pytest.fixture(scope="module", params=[*MODELS, "bpe with byte fallback", "unigram with byte fallback"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    if request.param in MODELS:
        model = reference.fetch_sentencepiece_models() / f"{request.param}.model"
        (folder / "tokenizer.model").write_bytes(model.read_bytes())
        return folder
    return trained(folder, request.param.split()[0])


def is_unigram(model):
    return any(abs(model.get_score(i) - round(model.get_score(i))) > 1e-3 for i in range(300, model.vocab_size()))


def score(model, ids):
    return sum(map(model.get_score, ids))


def test_sentencepiece_ids_and_text(folder):
    other = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = plain_texts(1_000_000 // reference.DIVISOR)
    expected = other.encode(texts)
    actual = reference.encode(folder, [t.encode() for t in texts])
    if is_unigram(other):
        # Among segmentations of equal score the Python package and Debian's library may choose different ones.
        ties = [i for i in range(len(texts)) if expected[i] != actual[i]]
        assert len(ties) < len(texts) / 10
        for i in ties:
            assert score(other, actual[i]) == pytest.approx(score(other, expected[i]), rel=1e-5)
            assert "".join(map(other.id_to_piece, expected[i])) == "".join(map(other.id_to_piece, actual[i]))
            actual[i] = expected[i]
    reference.assert_same(texts, expected, actual)
    reference.assert_same(expected, other.decode(expected), reference.decode(folder, expected))
    with_bos = [[other.bos_id(), *ids] for ids in reference.encode(folder, [t.encode() for t in texts[:50]])]
    assert with_bos == reference.encode(folder, [t.encode() for t in texts[:50]], "--add-special")

    rng = random.Random(3)
    sequences = [[rng.randrange(other.vocab_size()) for _ in range(rng.randint(0, 30))] for _ in range(3000)]
    sequences += [[rng.randrange(3, 300) for _ in range(20)] for _ in range(1000)]  # many bytes
    reference.assert_same(sequences, other.decode(sequences), reference.decode(folder, sequences))


def test_chatglm_special_tokens(llama_like, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes((llama_like / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    other = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    n = other.vocab_size()
    ids = {t: n + i for i, t in enumerate(["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *ROLES])}

    def encode(text, *options):
        return reference.encode(tmp_path, [text.encode()], *options)[0]

    # What ChatGLM3's build_chat_input makes of this conversation.
    chat = "[gMASK]sop<|system|>\n Be brief.<|user|>\n 你好<|assistant|>"
    assert encode(chat) == [ids["[gMASK]"], ids["sop"], ids["<|system|>"], *other.encode("\n Be brief."), ids["<|user|>"],
                            *other.encode("\n 你好"), ids["<|assistant|>"]]
    assert encode("hello", "--add-special") == [ids["[gMASK]"], ids["sop"], *other.encode("hello")]
    assert encode("a sophisticated eop") == other.encode("a sophisticated eop")
    assert encode("<|user|>", "--no-parse-special") == other.encode("<|user|>")
    assert encode("<unk> </s>") == other.encode("<unk> </s>")

    sequence = [ids["[gMASK]"], ids["sop"], *other.encode("hello"), ids["<|user|>"], *other.encode("hello")]
    assert reference.decode(tmp_path, [sequence]) == ["[gMASK]sophello<|user|>hello"]
    assert reference.decode(tmp_path, [sequence], "--skip-special") == ["hellohello"]

    # ChatGLM2's code names no roles.
    (tmp_path / "tokenization_chatglm.py").write_text("special_tokens = ['[MASK]', '[gMASK]', '[sMASK]', 'sop', 'eop']")
    assert encode("<|user|>") == other.encode("<|user|>")
    assert encode("[gMASK]sop a") == [ids["[gMASK]"], ids["sop"], *other.encode(" a")]


def test_llama_control_tokens_in_text(llama_like):
    other = sentencepiece.SentencePieceProcessor(model_file=str(llama_like / "tokenizer.model"))
    assert reference.encode(llama_like, [b"<s>hello</s>"])[0] == [1, *other.encode("hello"), 2]


@pytest.fixture(scope="module")
def glm4(tmp_path_factory):
    """A model in the format of GLM-4's first release, made of Llama-3's tokens."""
    folder = tmp_path_factory.mktemp("glm4")
    spec = json.loads((reference.fetch_npm("llama3") / "tokenizer.json").read_text())
    back = {c: b for b, c in bytes_to_unicode().items()}
    ranks = {bytes(back[c] for c in token): rank for token, rank in spec["model"]["vocab"].items()}
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "tokenizer.model").write_text("".join(lines))
    special = {t: len(ranks) + i for i, t in enumerate(GLM4_SPECIAL)}
    decoder = {str(i): {"content": t, "special": True} for t, i in special.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    return folder, tiktoken.Encoding("glm4", pat_str=GLM4_PATTERN, mergeable_ranks=ranks, special_tokens=special)


def bytes_to_unicode():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def test_tiktoken_ids_and_text(glm4):
    folder, other = glm4
    texts = [t for t in corpus.texts(2_000_000 // reference.DIVISOR, seed=9) if len(t) < 100_000]
    expected = [other.encode(t.decode("utf-8", errors="replace"), allowed_special="all") for t in texts]
    reference.assert_same(texts, expected, reference.encode(folder, texts))
    reference.assert_same(expected, other.decode_batch(expected), reference.decode(folder, expected))

    gmask, sop = other.encode("[gMASK]<sop>", allowed_special="all")
    assert reference.encode(folder, [b"hi"], "--add-special")[0] == [gmask, sop, *other.encode("hi")]

    rng = random.Random(3)
    sequences = [[rng.randrange(other.n_vocab) for _ in range(rng.randint(0, 30))] for _ in range(3000)]
    reference.assert_same(sequences, other.decode_batch(sequences), reference.decode(folder, sequences))


def test_tiktoken_special_tokens_by_default(glm4, tmp_path):
    folder, other = glm4
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    expected = [other.encode(token, allowed_special="all") for token in GLM4_SPECIAL]
    assert reference.encode(tmp_path, [token.encode() for token in GLM4_SPECIAL]) == expected
