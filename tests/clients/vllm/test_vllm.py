"""vLLM loads an artifact as it is, and writes the text that we write from the same files (make test-clients)."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import AUTOGLM, model_folder, task_prompts
from transformers import AutoTokenizer

DEMO = model_folder("glm-phone-demo")
TASKS = int(os.environ.get("AUTOGLM_TASKS", 200))
# A process of its own: an engine keeps its memory and threads as long as its process lives.
ENGINE = """
import json, sys
from vllm import LLM, SamplingParams
request = json.load(sys.stdin)
engine = LLM(model=request["folder"], dtype=request["dtype"], max_model_len=1024, enforce_eager=True)
sampling = SamplingParams(temperature=0, max_tokens=48)
answers = engine.generate(request["prompts"], sampling)
print("ANSWER " + json.dumps([answer.outputs[0].text for answer in answers]))
"""


def vllm_writes(folder, dtype, prompts):
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
                                "PYTHONPATH": str(Path(__file__).parent / "no_cuda")}
    done = subprocess.run([sys.executable, "-c", ENGINE], input=json.dumps({"folder": str(folder), "dtype": dtype, "prompts": prompts}),
                          capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert done.returncode == 0 and lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("ANSWER "))


def we_write(folder, dtype, prompt):
    done = subprocess.run([AUTOGLM, "generate", folder, "--raw", "--prompt", prompt, "--max-new-tokens", "48", "--compute", dtype, "--json", "--quiet"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["text"]


@pytest.mark.parametrize("options,dtype", [((), "float32"), (("int4-g128",), "bfloat16"), (("int4-channel",), "bfloat16"), (("w8a8",), "bfloat16"),
                                           (("w8a8-static",), "bfloat16")])
def test_the_same_greedy_text_on_task_prompts(options, dtype, compress):
    """Tokenized by vLLM. Its products with integers are for 16 bits alone."""
    calibration = ("--calibration-dataset", str(DEMO / "tasks" / "calibration.jsonl")) if options == ("w8a8-static",) else ()
    artifact = compress("glm-phone-demo", "-q", *options, *calibration) if options else DEMO
    prompts = list(task_prompts(AutoTokenizer.from_pretrained(DEMO), TASKS))
    for prompt, text in zip(prompts, vllm_writes(artifact, dtype, prompts), strict=True):
        assert text.strip() == we_write(artifact, {"float32": "fp32", "bfloat16": "bf16"}[dtype], prompt).strip(), prompt
