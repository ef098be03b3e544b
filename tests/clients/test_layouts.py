"""What `autoglm export --format gptq` and `awq` write, read by the layouts' documented rules and compared tensor by tensor
with the artifact's floats. tests/clients/gptqmodel loads them with GPTQModel, whose pins need an environment of its own."""
import json

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from safetensors.torch import load_file
from test_export import export

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
QUANTIZABLE = [family for family in FAMILIES if family != "chatglm"]


def stream(words, bits, count):
    """The first `count` values of rows of 32-bit words, each row one stream, the lowest bits first."""
    bit = np.unpackbits(words.astype("<u4").view(np.uint8), axis=-1, bitorder="little")[:, : count * bits]
    return (bit.reshape(len(words), count, bits) * (1 << np.arange(bits))).sum(-1)


def nibbles(words):
    values = np.stack([words >> (4 * i) & 15 for i in range(8)], -1)
    return values[..., np.argsort(AWQ_ORDER)].reshape(len(words), -1)


def read(tensors, module, config):
    """The weight [out, in] of a module in float32."""
    qweight, qzeros = (tensors[f"{module}.{name}"].numpy().view(np.uint32) for name in ("qweight", "qzeros"))
    scales = tensors[f"{module}.scales"].float().numpy()
    if config["quant_method"] == "awq":
        q, zeros = nibbles(qweight), nibbles(qzeros)  # [in, out], [groups, out]
        group = np.arange(len(q)) * len(zeros) // len(q)
    else:
        group = tensors[f"{module}.g_idx"].numpy()
        q = stream(np.ascontiguousarray(qweight.T), config["bits"], len(group)).T
        zeros = stream(qzeros, config["bits"], scales.shape[1]) + (config["checkpoint_format"] == "gptq")
    return ((q.astype(np.int32) - zeros[group].astype(np.int32)) * scales[group]).T


@pytest.mark.parametrize("family,layout,scheme", [
    *(("glm-phone-demo", "gptq", scheme) for scheme in ("int2-g32", "int3-g128-asym", "int4-channel", "int4-g32-asym", "int8-g64", "int8-tensor")),
    *(("glm-phone-demo", "awq", scheme) for scheme in ("int4-g64", "int4-g32-asym", "int4-channel")),
    *((family, layout, "int4-g16" if "moe" in family else "int4-g16-asym")
      for family in QUANTIZABLE if family != "glm-phone-demo" for layout in ("gptq", "awq"))])
def test_weights_are_the_artifacts(family, layout, scheme, compress, tmp_path):
    artifact = compress(family, "-q", scheme, "--method", "rtn")
    report = export(artifact, tmp_path / "out", "--format", layout)
    export(artifact, tmp_path / "plain", "--format", "hf", "--type", "fp32")
    written, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "plain"))
    for fused in [name for name in plain if name.endswith("gate_up_proj.weight")]:
        halves = plain.pop(fused).chunk(2)
        plain |= {fused.replace("gate_up", part): half for part, half in zip(("gate", "up"), halves)}
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == layout
    modules = [name.removesuffix(".qweight") for name in written if name.endswith(".qweight")]
    assert len(modules) == report["matrices"] > 0
    for module in modules:
        expected = plain[f"{module}.weight"].numpy()
        np.testing.assert_allclose(read(written, module, config), expected, rtol=1e-3, atol=1e-9, err_msg=module)
    for name in written.keys() & plain.keys():
        assert torch.equal(written[name].float(), plain[name].float()), name
