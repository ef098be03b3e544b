"""The same calibration tokens for every tool: as text, and as ids."""
import os
from pathlib import Path


def write_windows(text_file, folder, model, samples, length):
    """Writes into `folder` the beginning of a text that is exactly `samples` windows of `length` tokens of `model`
    (calibration.txt), and the windows' ids (tokens.npy). In a process of its own: the kernel counts what a parent
    occupies towards the children that it measures."""
    if os.fork() == 0:
        prepare(text_file, folder, model, samples, length)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]) != 0:
        raise SystemExit("the calibration text could not be prepared")


def prepare(text_file, folder, model, samples, length):
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    text = Path(text_file).read_text(errors="replace")[: samples * length * 8]
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # One window more than needed is cut off at a token's end, so that every tool sees the same ones.
    end = encoding["offset_mapping"][samples * length + 8][1]
    ids = tokenizer(text[:end], add_special_tokens=False)["input_ids"]
    assert samples * length <= len(ids) < (samples + 1) * length
    (folder / "calibration.txt").write_text(text[:end])
    np.save(folder / "tokens.npy", np.array(ids[: samples * length], dtype=np.int64).reshape(samples, length))
