"""llama.cpp sees pictures through what `autoglm export --format gguf --mmproj` writes as transformers does."""
import base64
import json
import shutil
import struct
import zlib

import gguf
import numpy as np
import pytest
import torch
import transformers
from conftest import model_folder
from safetensors.torch import load_file, save_file
from test_export import export, export_fails
from test_gguf import by_id, llama_cpp, made_up_tokenizer

PATCH, MERGE, SIDE = 14, 2, 56  # of the tiny model: four tokens to a picture
MEAN, DEVIATION = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
WORDS = [20, 33, 40, 41, 77]


@pytest.fixture
def seeing(tmp_path):
    """The tiny model with a tokenizer that knows llama.cpp's words for pictures, and a special token for each of WORDS."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder("glm4v"), folder)
    config = json.loads((folder / "config.json").read_text())
    made_up_tokenizer(folder, config["text_config"]["vocab_size"])
    names = {config["image_start_token_id"]: "<|begin_of_image|>", config["image_end_token_id"]: "<|end_of_image|>",
             **{word: f"<|t{word}|>" for word in WORDS}}
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for id, name in names.items():
        del tokenizer["model"]["vocab"][f"w{id}"]
        tokenizer["model"]["vocab"][name] = id
        tokenizer["added_tokens"].append({"id": id, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                                          "normalized": False, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    return folder


def picture(seed, width=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, width, 3), dtype=np.uint8)


def png(pixels):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)) + \
        chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def patches(pixels):
    """As transformers' Glm4vImageProcessor lays them: blocks of MERGE x MERGE patches, each patch twice for a still picture."""
    values = ((pixels / 255.0 - MEAN) / DEVIATION).transpose(2, 0, 1)
    rows, cols = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    frames = np.stack([values, values]).reshape(2, 3, rows // MERGE, MERGE, PATCH, cols // MERGE, MERGE, PATCH)
    return torch.tensor(frames.transpose(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * cols, -1), dtype=torch.float32), (1, rows, cols)


def their_logits(folder, pixels, before, after):
    config = json.loads((folder / "config.json").read_text())
    values, grid = patches(pixels)
    image = [config["image_token_id"]] * (grid[1] * grid[2] // MERGE ** 2)
    ids = torch.tensor([[*before, config["image_start_token_id"], *image, config["image_end_token_id"], *after]])
    model = transformers.Glm4vForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=values, image_grid_thw=torch.tensor([grid]),
                     mm_token_type_ids=(ids == config["image_token_id"]).int()).logits[0, -1]


def server(text, vision):
    def see(params):
        params.mmproj.path, params.mmproj_use_gpu, params.image_min_tokens = str(vision), False, 1

    return llama_cpp(text, see)


def answer(engine, pixels, before, after, **options):
    words = lambda ids: {"type": "text", "text": "".join(f"<|t{id}|>" for id in ids)}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png(pixels)).decode()}}
    done = engine.handle_chat_completions({"messages": [{"role": "user", "content": [words(before), image, words(after)]}],
                                           "temperature": 0, "max_tokens": 4, "cache_prompt": False, **options})
    done = json.loads(done) if isinstance(done, (str, bytes)) else done
    assert "choices" in done, done
    return done["choices"][0]


@pytest.mark.parametrize("kind,most", [("fp32", 1e-5), ("bf16", 1e-3)])
def test_pictures_are_seen_alike(kind, most, seeing, tmp_path):
    export(seeing, tmp_path / "text.gguf", "--format", "gguf", "--type", "fp32")
    report = export(seeing, tmp_path / "mmproj.gguf", "--format", "gguf", "--mmproj", "--type", kind)
    assert report["architecture"] == "clip" and (report["difference"] == 0) == (kind == "fp32")
    engine = server(tmp_path / "text.gguf", tmp_path / "mmproj.gguf")
    seen = []
    for seed in range(3):
        pixels, before, after = picture(seed), WORDS[:2], WORDS[2:]
        theirs = torch.log_softmax(their_logits(seeing, pixels, before, after).double(), -1).numpy()
        ours = by_id(answer(engine, pixels, before, after, logprobs=True, top_logprobs=len(theirs)), len(theirs))
        assert (np.exp(theirs) * (theirs - ours))[np.exp(theirs) > 1e-12].sum() <= most
        seen.append(theirs)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3  # the pictures are looked at


def test_every_value_of_the_tower_is_there(seeing, tmp_path):
    export(seeing, tmp_path / "mmproj.gguf", "--format", "gguf", "--mmproj")
    stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(tmp_path / "mmproj.gguf").tensors}
    tower = {name: tensor for name, tensor in load_file(seeing / "model.safetensors").items() if ".visual." in name}
    assert sum(values.size for values in stored.values()) == sum(tensor.numel() for tensor in tower.values())
    kernel = tower["model.visual.patch_embed.proj.weight"]
    for frame, name in enumerate(("v.patch_embd.weight", "v.patch_embd.weight.1")):
        np.testing.assert_array_equal(stored[name].reshape(kernel[:, :, frame].shape), kernel[:, :, frame].numpy())


def change(folder, **members):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"] |= members
    path.write_text(json.dumps(config))


def test_what_llama_cpp_has_no_place_for(seeing, tmp_path):
    refused = lambda *words: [word for word in words if word not in export_fails(seeing, tmp_path / "out", "--format", "gguf", "--mmproj")]
    tensors = {name: tensor.clone() for name, tensor in load_file(seeing / "model.safetensors").items()}
    save_file(tensors | {"model.visual.extra.weight": torch.zeros(3)}, seeing / "model.safetensors", {"format": "pt"})
    assert refused("no place", "model.visual.extra.weight") == []
    missing = dict(tensors)
    del missing["model.visual.downsample.bias"]
    save_file(missing, seeing / "model.safetensors", {"format": "pt"})
    assert refused("model.visual.downsample.bias", "missing") == []
    save_file(tensors, seeing / "model.safetensors", {"format": "pt"})
    for member, value, word in (("depth", 0, "depth"), ("hidden_size", 32, "vision_config"), ("hidden_act", "gelu", "silu"),
                                ("patch_size", "14", "patch_size"), ("temporal_patch_size", 4, "two frames")):
        kept = (seeing / "config.json").read_text()
        change(seeing, **{member: value})
        assert refused(word) == [], member
        (seeing / "config.json").write_text(kept)
    save_file(tensors | {"model.visual.blocks.1.mlp.gate_proj.weight": torch.zeros(96, 64)}, seeing / "model.safetensors",
              {"format": "pt"})
    assert refused("blocks.1.mlp.gate_proj", "[96, 64]") == []
    save_file(tensors, seeing / "model.safetensors", {"format": "pt"})
    (seeing / "processor_config.json").write_text('{"image_processor": {"image_std": [1, 0, 1]}}')
    assert refused("image_std") == []
    (seeing / "preprocessor_config.json").write_text('{"image_mean": [1, 2]}')
    assert refused("image_mean") == []
    assert not (tmp_path / "out").exists()


def test_a_model_that_reads_text_alone(tmp_path):
    assert "vision_config" in export_fails(model_folder("glm4"), tmp_path / "out", "--format", "gguf", "--mmproj")
