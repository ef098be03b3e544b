"""transformers + compressed-tensors compute from what llm-compressor writes the logits that our decoder computes."""
import json

import pytest
import torch
from conftest import ROOT
from test_transformers import cosine, load, token_ids

FOLDERS = sorted(f for f in (ROOT / "tests/data/llm_compressor").iterdir() if (f / "config.json").exists())


def has_packed_zero_points(folder):
    group = json.loads((folder / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    return group["format"] == "pack-quantized" and not group["weights"]["symmetric"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_agree(folder, our_logits):
    model, info = load(folder, dequantize=has_packed_zero_points(folder), output_loading_info=True)
    assert not any(info.values()), info  # every tensor of the file was used, and none was made up
    ids = token_ids(folder)
    with torch.no_grad():
        theirs = model.eval()(input_ids=torch.tensor([ids])).logits[0].numpy()
    assert cosine(our_logits(folder, ids), theirs) >= 1 - 1e-6  # the folders differ from each other by more


def test_there_is_something_to_read():
    assert {folder.name for folder in FOLDERS} >= {"int4_group_asymmetric_gptq", "int3_group", "int8_channel", "w8a8"}
