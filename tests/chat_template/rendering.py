"""The reference: transformers' own rendering, and our program beside it."""

import json
import os
import subprocess

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

PROGRAM = os.environ["AUTOGLM_RENDER"]


class Failed:
    """A rendering that ended in an error; equal to any other, since the wording is ours."""

    def __init__(self, message):
        self.message = str(message)

    def __eq__(self, other):
        return isinstance(other, Failed)

    def __repr__(self):
        return f"Failed({self.message!r})"


def ours(cases):
    """What our program makes of each case (see render.cpp): a text or Failed."""
    done = subprocess.run([PROGRAM], input=json.dumps(cases).encode(), capture_output=True, check=True)
    results = [result["text"] if "text" in result else Failed(result["error"]) for result in json.loads(done.stdout)]
    assert len(results) == len(cases)
    return results


def jinja(template, variables):
    """A template rendered by jinja2 in transformers' environment, without what is special to conversations."""
    try:
        return _compile_jinja_template(template).render(**variables)
    except Exception as error:  # whatever a template may raise
        return Failed(error)


def transformers_chat(template, special, variables):
    """A conversation rendered by a tokenizer's apply_chat_template."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **special)
    tokenizer.chat_template = template
    variables = dict(variables)
    messages = variables.pop("messages")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **variables)
    except Exception as error:
        return Failed(error)


def check(cases, expected):
    """Fails on the first case whose result is not the expected one, byte for byte."""
    results = ours(cases)
    for case, result, wanted in zip(cases, results, expected, strict=True):
        assert result == wanted, f"{case}\nours:   {result!r}\ntheirs: {wanted!r}"
    return results
