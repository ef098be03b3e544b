"""Writes what compressed-tensors makes of activations that it quantizes dynamically.

usage: make_fake_quantize.py OUT_FILE        (needs torch, compressed-tensors, safetensors)

x.DTYPE [2, 5, 24] and y.DTYPE.STRATEGY.SYMMETRIC.BITS of the same shape, for compress/model/linear_test.cpp.
"""
import sys

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors.torch import save_file

torch.manual_seed(3)
base = torch.randn(2, 5, 24) * torch.tensor([0.01, 1.0, 30.0, 1.0, 1.0])[None, :, None]
base[0, 3] = 0          # a token of zeros
base[0, 4].abs_()       # one without negative values
base[1, 4] = -base[1, 4].abs()
tensors = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    kind = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    x = base.to(dtype)
    tensors[f"x.{kind}"] = x
    for strategy in ("token", "tensor"):
        for symmetric in (True, False):
            for bits in (8, 4):
                args = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, strategy=strategy, dynamic=True)
                scale, zero_point = compute_dynamic_scales_and_zp(x, args, None)
                name = f"y.{kind}.{strategy}.{'symmetric' if symmetric else 'asymmetric'}.{bits}"
                tensors[name] = fake_quantize(x, scale, zero_point, args)
save_file(tensors, sys.argv[1])
