"""llama.cpp loads what `autoglm export --format gguf` writes, reads text as we do, and computes the artifact's numbers."""
import io
import json
import os
import re
import shutil

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
import xllamacpp
from conftest import ROOT, divergence as mean_divergence, few, model_folder, task_prompts
from safetensors.torch import load_file, save_file
from test_export import export, export_fails
from test_transformers import load, their_logits, token_ids

DEMO = model_folder("glm-phone-demo")
TASKS = int(os.environ.get("AUTOGLM_TASKS", 20))  # of 200
FAMILIES = ["glm", "glm4", "glm4_tied", "glm4v", "glm4_moe_plain", "llama", "llama_biases", "qwen2", "qwen3"]
GGUF_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
              "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
              "self_attn.o_proj": "attn_output", "post_self_attn_layernorm": "post_attention_norm",
              "post_attention_layernorm": "ffn_norm", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
              "post_mlp_layernorm": "post_ffw_norm"}
PROSE = "The door was open when she came back, and the lamp on the table still burned. Nobody had been there for hours."
TEXTS = ["Hello world 12345", "设置中文，混合 English text", "  two  spaces\n\nand lines\t", "it's we'll I'M", "🙂🙃 emoji"]
# What GLM-4 splits text by, as in its tokenizer.json.
GLM_SPLIT = next(step for step in json.loads((DEMO / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"])


def llama_cpp(file, change=lambda params: None):
    """The engine with a float32 cache: its numbers are then the file's."""
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 1024, 1, False, 0
    params.cpuparams.n_threads = 2
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    change(params)
    return xllamacpp.Server(params)


def ask(server, prompt, **options):
    answer = server.handle_completions({"prompt": prompt, "temperature": 0, "cache_prompt": False, **options})
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    assert "choices" in answer, answer
    return answer


def complete(server, prompt, **options):
    return ask(server, prompt, **options)["choices"][0]


def count_tokens(server, text):
    return ask(server, text, n_predict=0)["usage"]["prompt_tokens"]


def log_probabilities(server, ids, vocabulary, **options):
    """Of the token after `ids`; what begins with half a character is told when that is whole."""
    return by_id(complete(server, ids, n_predict=4, n_probs=vocabulary, **options), vocabulary)


def by_id(choice, vocabulary):
    tokens = choice["logprobs"]["content"][0]["top_logprobs"]
    out = np.full(vocabulary, -np.inf)
    for token in tokens:
        out[token["id"]] = token["logprob"]
    return out


def divergence(server, folder, ids, lengths, dequantize=False):
    """Mean KL(transformers || llama.cpp) after each of the prefixes."""
    logits = torch.log_softmax(torch.tensor(their_logits(folder, ids, dequantize)).double(), -1).numpy()
    total = 0
    for length in lengths:
        ours = logits[length - 1]
        theirs = log_probabilities(server, ids[:length], len(ours))
        seen = np.exp(ours) > 1e-12
        total += (np.exp(ours) * (ours - theirs))[seen].sum()
    return total / len(lengths)


def made_up_tokenizer(folder, size):
    """A word for every id, none of which is half a character: for models that were made without a tokenizer."""
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [GLM_SPLIT, {
                     "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
                 "decoder": {"type": "ByteLevel"},
                 "model": {"type": "BPE", "vocab": {f"w{i}": i for i in range(size)}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    def copy(family):
        folder = tmp_path_factory.mktemp(family) / "model"
        shutil.copytree(model_folder(family), folder)
        config = json.loads((folder / "config.json").read_text())
        made_up_tokenizer(folder, config.get("text_config", config)["vocab_size"])
        return folder

    return copy


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same_in_float32(family, tiny, tmp_path):
    folder = tiny(family)
    report = export(folder, tmp_path / "model.gguf", "--format", "gguf", "--type", "fp32")
    assert report["difference"] == 0 and set(report["types"]) == {"F32"}
    ids = token_ids(folder)
    assert divergence(llama_cpp(tmp_path / "model.gguf"), folder, ids, (1, 2, 9, 48)) <= 1e-6


@pytest.mark.parametrize("kind,most", [("fp16", 1e-5), ("bf16", 1e-3)])
def test_floats_of_16_bits(kind, most, tmp_path):
    """llama.cpp rounds inputs of such matrices to the same type."""
    report = export(DEMO, tmp_path / "model.gguf", "--format", "gguf", "--type", kind)
    assert set(report["types"]) == {"F32", {"fp16": "F16", "bf16": "BF16"}[kind]}
    ids = transformers.AutoTokenizer.from_pretrained(DEMO)(PROSE)["input_ids"]
    assert divergence(llama_cpp(tmp_path / "model.gguf"), DEMO, ids, (4, 12, len(ids))) <= most


@pytest.mark.parametrize("family,rope", [
    ("llama", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32}),
    ("qwen2", {"rope_type": "linear", "factor": 4.0})])
def test_scaled_rotary_frequencies(family, rope, tiny, tmp_path):
    folder = tiny(family)
    config = json.loads((folder / "config.json").read_text())
    plain = their_logits(folder, token_ids(folder))
    config["rope_parameters"] |= rope
    (folder / "config.json").write_text(json.dumps(config))
    export(folder, tmp_path / "model.gguf", "--format", "gguf", "--type", "fp32")
    ids = token_ids(folder)
    assert mean_divergence(plain, their_logits(folder, ids)) > 1e-5  # the scaling shows
    assert divergence(llama_cpp(tmp_path / "model.gguf"), folder, ids, (1, 9, 48)) <= 1e-6


@pytest.mark.parametrize("scheme,types", [
    ("int4-g32", {"Q4_0"}), ("int4-channel", {"Q4_0"}), ("int3-g64", {"Q4_0"}), ("int4-g32-asym", {"Q4_1"}), ("int5-g32", {"Q5_0"}),
    ("int5-g32-asym", {"Q5_1"}), ("int8", {"Q8_0"}), ("int6-g128", {"Q8_0"})])
def test_integers_are_not_rounded_again(scheme, types, compress, tmp_path):
    artifact = compress("glm-phone-demo", "-q", scheme, "--method", "rtn")
    report = export(artifact, tmp_path / "model.gguf", "--format", "gguf")
    assert types < set(report["types"]) <= types | {"F32", "BF16"}
    assert report["difference"] <= (1e-3 if "asym" in scheme else 1e-7)  # minima are rounded to FP16
    ids = token_ids(artifact)
    # llama.cpp rounds inputs of integer matrices to 8 bits.
    assert divergence(llama_cpp(tmp_path / "model.gguf"), artifact, ids, (3, 9, 33, 48), dequantize=True) <= 1e-3


def demo_of(file):
    """The demo model with the values that the gguf package takes out of a file, the types there, and the relative squared error."""
    tensors = {t.name: t for t in gguf.GGUFReader(file).tensors}
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    error, power = 0, 0
    for name, target in model.state_dict().items():
        layer, part = re.fullmatch(r"(?:model\.)?(?:layers\.(\d+)\.)?(.+)", name).groups()
        tensor = tensors[(f"blk.{layer}." if layer else "") + GGUF_NAMES[part.rsplit(".", 1)[0]] + "." + part.rsplit(".", 1)[1]]
        values = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).reshape(target.shape)
        error += ((values - target) ** 2).sum().item()
        power += (target ** 2).sum().item()
        target.copy_(values)
    return model, {t.tensor_type.name for t in tensors.values()}, error / power


@pytest.mark.parametrize("kind", few(["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"],
                                     ["q2_k", "q3_k", "q4_k", "q6_k", "q5_1"]))
def test_rounded_types_hold_what_ggml_reads_in_them(kind, tmp_path):
    """The values that the gguf package takes out of the file: near the source's, and what llama.cpp computes with."""
    export(DEMO, tmp_path / "model.gguf", "--format", "gguf", "--type", kind)
    model, types, error = demo_of(tmp_path / "model.gguf")
    assert types <= {kind.upper(), "F32", "Q6_K" if kind != "q8_0" else "F32"}
    assert error < {"2": 0.12, "3": 0.04, "4": 0.01, "5": 0.0025, "6": 0.0006, "8": 0.0001}[kind[1]]
    ids = transformers.AutoTokenizer.from_pretrained(DEMO)(PROSE)["input_ids"]
    with torch.no_grad():
        logits = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1).numpy()
    server, lengths, total = llama_cpp(tmp_path / "model.gguf"), range(4, len(ids), 8), 0
    for length in lengths:
        theirs = log_probabilities(server, ids[:length], logits.shape[1])
        total += (np.exp(logits[length - 1]) * (logits[length - 1] - theirs)).sum()
    assert total / len(lengths) <= 1e-3  # llama.cpp rounds inputs of integer matrices to 8 bits


@pytest.mark.parametrize("kind", ["q2_k", "q3_k"])
@torch.no_grad()
def test_what_calibration_saw_makes_rounding_better(kind, compress, tmp_path):
    """statistics.st of the artifact against none, on tasks of the kind that calibration had, but others."""
    artifact = compress("glm-phone-demo", "-q", "int8", "--method", "gptq", "--calibration-dataset", str(DEMO / "tasks" / "calibration.jsonl"),
                        "--calibration-samples", "64")
    plain = tmp_path / "plain"
    shutil.copytree(artifact, plain, ignore=shutil.ignore_patterns("statistics.st"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    texts = [torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]]) for prompt in task_prompts(tokenizer, 60)]
    source = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    lost = []
    for folder, weighted in ((artifact, True), (plain, False)):
        file = tmp_path / f"{folder.name}.gguf"
        assert (export(folder, file, "--format", "gguf", "--type", kind)["weighted"] > 0) == weighted
        model = demo_of(file)[0]
        lost.append(sum(mean_divergence(source(ids).logits[0], model(ids).logits[0]) for ids in texts))
    assert lost[0] < 0.97 * lost[1], lost


@pytest.fixture(scope="module")
def demo_gguf(tmp_path_factory):
    file = tmp_path_factory.mktemp("demo") / "demo.gguf"
    export(DEMO, file, "--format", "gguf", "--type", "fp32")
    return file


@pytest.mark.parametrize("kind", few(["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"], ["q3_k", "q4_k"]))
def test_rows_that_are_no_super_blocks_fall_back(kind, tiny, tmp_path):
    """Of 128 values, to the types that llama.cpp's own tool takes there; those of down, of 256, do not."""
    folder = tiny("glm4")
    report = export(folder, tmp_path / "model.gguf", "--format", "gguf", "--type", kind)
    others = {"q2_k": "Q4_0", "q3_k": "Q4_0", "q4_k": "Q5_0", "q5_k": "Q5_1", "q6_k": "Q8_0"}
    assert {others[kind], kind.upper()} <= set(report["types"]), report
    log_probabilities(llama_cpp(tmp_path / "model.gguf"), token_ids(folder)[:9], 320)


@pytest.mark.parametrize("kind", ["fp32", "int4-g32", "int8", "q4_k"])
def test_the_same_greedy_text_on_task_prompts(kind, compress, tmp_path):
    """Tokenized by llama.cpp, with the file's chat template, to the end that the file names; of what is rounded, beside the floats
    that the file stands for."""
    file, tokenizer = tmp_path / "model.gguf", transformers.AutoTokenizer.from_pretrained(DEMO)
    if kind.startswith("int"):
        artifact = compress("glm-phone-demo", "-q", kind, "--method", "rtn")
        export(artifact, file, "--format", "gguf")
        model = load(artifact, dequantize=True).eval()
    else:
        export(DEMO, file, "--format", "gguf", "--type", kind)
        model = (transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval() if kind == "fp32"
                 else demo_of(file)[0])
    server = llama_cpp(file)
    for prompt in task_prompts(tokenizer, TASKS):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, do_sample=False, max_new_tokens=48)[0, ids.shape[1]:]
        theirs = complete(server, prompt, n_predict=48)
        assert theirs["text"].strip() == tokenizer.decode(out, skip_special_tokens=True).strip(), prompt


def test_text_is_read_as_tokens_alike(demo_gguf):
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    server = llama_cpp(demo_gguf)
    for text in TEXTS:
        assert count_tokens(server, text) == len(tokenizer(text, add_special_tokens=False)["input_ids"]), text


@pytest.mark.parametrize("name", ["qwen2_5", "gpt2", "llama3"])
def test_real_tokenizers_are_read_alike(name, tiny, tmp_path):
    """Fetched by tests/tokenizer; where that has not run, there is nothing to compare."""
    source = ROOT / ".cache" / "tokenizers" / name
    if not (source / "tokenizer.json").exists():
        pytest.skip(f"{name} was not fetched")
    folder = tiny("llama")
    shutil.copy(source / "tokenizer.json", folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    config["vocab_size"] = len(tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    for tensor in {"model.embed_tokens.weight", "lm_head.weight"} & set(tensors):
        tensors[tensor] = torch.zeros(len(tokenizer), tensors[tensor].shape[1])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    export(folder, tmp_path / "model.gguf", "--format", "gguf")
    server = llama_cpp(tmp_path / "model.gguf")
    for text in TEXTS:
        assert count_tokens(server, text) == len(tokenizer(text, add_special_tokens=True)["input_ids"]), text


def trained_pieces(folder, size):
    """A tokenizer.model as ChatGLM3 has it, of the size that leaves room for its nine special tokens."""
    model = io.BytesIO()
    lines = [PROSE, *PROSE.split(". "), "sophisticated shops stop at the top"] * 4  # what else a text has, it has as bytes
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=size - 9, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}')
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.parametrize("family", ["chatglm"])
def test_sentencepiece(family, our_logits, tmp_path):
    """The numbers of a chatglm folder as it is released, and its tokens: text and ids of the reference give the same."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder(family), folder)
    pieces = trained_pieces(folder, 320)
    export(folder, tmp_path / "model.gguf", "--format", "gguf", "--type", "fp32")
    server, special = llama_cpp(tmp_path / "model.gguf"), pieces.get_piece_size()
    no_bytes = [[id, False] for id in range(special) if pieces.is_byte(id)]  # as the next token; their chances stay
    after = lambda prompt: log_probabilities(server, prompt, 320, logit_bias=no_bytes)
    prefix = [special + 1, special + 3, special + 6]
    for text in TEXTS:
        ids = pieces.encode(text)
        assert count_tokens(server, text) == len(ids), text
        np.testing.assert_allclose(after(text), after(ids), atol=1e-5, err_msg=text)
        ids = prefix + ids
        np.testing.assert_allclose(after("[gMASK]sop<|user|>" + text), after(ids), atol=1e-5, err_msg=text)
        expected = torch.log_softmax(torch.tensor(our_logits(folder, ids)[-1]).double(), -1).numpy()
        assert (np.exp(expected) * (expected - after(ids))).sum() <= 1e-5, text


def test_pieces_that_llama_cpp_does_not_join(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("chatglm"), folder)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([PROSE] * 9), model_writer=model, vocab_size=60,
                                             model_type="unigram", hard_vocab_limit=False, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    assert "unigram" in export_fails(folder, tmp_path / "out", "--format", "gguf")
