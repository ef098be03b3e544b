"""Conversations of every shape that templates tell apart."""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "天气预报 — current weather\nfor a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": 'A city, e.g. "São Paulo" or 北京'},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                    "days": {"type": ["integer", "null"]},
                    "stations": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "number"}}}},
                },
                "required": ["city"],
            },
            "return": {"type": "string"},
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, identity="abc123def"):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "  You are careful.\nAnswer in one line.  "}
HELLO = {"role": "user", "content": "Hello <b>\"you\"</b> & {{ not a tag }} {% nor this %}"}
ANSWER = {"role": "assistant", "content": "Hi.\n"}
THINKING = {"role": "assistant", "content": "<think>\nSimple: 1+1.\n</think>\n\nTwo."}

CONVERSATIONS = {
    "one": [HELLO],
    "system": [SYSTEM, HELLO],
    "turns": [SYSTEM, HELLO, ANSWER, {"role": "user", "content": "Again"}],
    "unicode": [{"role": "user", "content": "你好，世界 🌍\u200b e\u0301 \u00a0 \t ǆ"}, {"role": "assistant", "content": "早上好"}],
    "empty": [{"role": "system", "content": ""}, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}],
    "white_space": [{"role": "user", "content": "\n\n  a \r\n\u3000 b\n\n"}, {"role": "assistant", "content": "   "}],
    "null_content": [HELLO, {"role": "assistant", "content": None, "tool_calls": [call("now", {})]}],
    "tools": [
        SYSTEM,
        {"role": "user", "content": "Weather in Paris and 北京?"},
        {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Paris", "days": 3})]},
        {"role": "tool", "content": '{"temp": 21.5}', "tool_call_id": "abc123def", "name": "get_weather"},
        {"role": "assistant", "content": "21.5 degrees."},
    ],
    "parallel_tools": [
        {"role": "user", "content": "Both"},
        {
            "role": "assistant",
            "content": "Looking.",
            "reasoning_content": "\nTwo cities,\ntwo calls.\n",
            "tool_calls": [
                call("get_weather", {"city": "北京", "unit": "celsius", "nested": {"a": [1, 2.5, None, True]}}),
                call("get_weather", {"city": 'Quo"te\\'}),
            ],
        },
        {"role": "tool", "content": "18"},
        {"role": "tool", "content": "19"},
        {"role": "assistant", "content": "<think>\nDone\n</think>\n18 and 19.", "thinking": "older name"},
        {"role": "user", "content": "Thanks /nothink"},
    ],
    "bare_tool_call": [HELLO, {"role": "assistant", "content": "", "tool_calls": [{"name": "now", "arguments": {"x": 1}}]}],
    "thinking": [HELLO, THINKING, {"role": "user", "content": "And 2+2?"}, THINKING],
    "reasoning": [HELLO, {"role": "assistant", "content": "Two.", "reasoning": "1+1"}],
    "parts": [
        {"role": "system", "content": [{"type": "text", "text": "Look at images."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is\nthis? "}]},
    ],
    "metadata": [HELLO, {"role": "assistant", "metadata": "interpreter", "content": "print(1)"}, {"role": "observation", "content": "1"}],
    "wrong_order": [ANSWER, HELLO],
    "unknown_role": [{"role": "narrator", "content": "Once upon a time"}],
    "late_system": [HELLO, SYSTEM, ANSWER],
    "numbers": [{"role": "user", "content": 12345678901, "score": 0.1, "big": 1e22, "small": 1e-7, "flag": False}],
}

OPTIONS = {
    "plain": {},
    "generate": {"add_generation_prompt": True},
    "tools": {"tools": TOOLS, "add_generation_prompt": True},
    "no_thinking": {"enable_thinking": False, "add_generation_prompt": True},
    "dated": {"tools": TOOLS, "date_string": "1 Feb 2025", "tools_in_user_message": False, "builtin_tools": ["now", "interpreter"]},
}
