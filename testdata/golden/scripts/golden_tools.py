"""Writes tools.json: conversations with tools, rendered by transformers' own Jinja environment."""
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template

# In the manner of templates that Qwen's models carry: tools in the system turn, calls as JSON
# between tags, results of tools in a turn of the user.
TEMPLATE = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'Tools:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if tool_call.function %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {%- if tool_call.arguments is string %}
                {{- tool_call.arguments }}
            {%- else %}
                {{- tool_call.arguments | tojson }}
            {%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
INDENTED = "{{ tools | tojson(indent=4) }}|{{ tools[0].function.parameters | tojson(indent=2) }}|{{ messages[0] | tojson }}|{{ tools[0].function.parameters.properties.temp.default }}|{{ messages[0].content | tojson }}"
TOOLS = [
    {"type": "function", "function": {"name": "set_light", "description": "Schaltet das Licht <an> & \"aus\" – 灯 🙂",
        "parameters": {"type": "object", "properties": {
            "room": {"type": "string", "enum": ["Küche", "Bad"]},
            "temp": {"type": "number", "minimum": -1.5, "maximum": 1e20, "default": 0.1, "multipleOf": 1e-05},
            "on": {"type": "boolean", "default": True}, "extra": {}, "none": None, "list": []}, "required": ["room", "on"]}}},
    {"type": "function", "function": {"name": "now", "description": "It's the time.\nA second line\tand a tab\\", "parameters": {"type": "object", "properties": {}}}},
]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Licht an in der Küche, und wie spät ist es?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "1", "function": {"name": "set_light", "arguments": {"room": "Küche", "on": True, "temp": 2.50}}},
        {"type": "function", "id": "2", "function": {"name": "now", "arguments": "{\"zone\": \"UTC\"}"}}]},
    {"role": "tool", "name": "set_light", "content": "{\"ok\": true}"},
    {"role": "tool", "name": "now", "content": "12:30 🙂"},
    {"role": "assistant", "content": "It is on. It is half past twelve."},
    {"role": "user", "content": "Off again."},
    {"role": "assistant", "content": "I will.", "tool_calls": [{"name": "set_light", "arguments": {"room": "Küche", "on": False}}]},
    {"role": "tool", "content": "done"},
    {"role": "assistant", "content": "Done."},
]


def render(template, messages, tools, add_generation_prompt=False):
    texts, _ = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=add_generation_prompt)
    return texts[0]


cases = []
for count, tools, prompt in [(10, TOOLS, False), (5, TOOLS, True), (3, TOOLS, False), (10, None, False), (2, TOOLS[1:], True)]:
    cases.append({"messages": count, "tools": tools and tools, "add_generation_prompt": prompt, "text": render(TEMPLATE, MESSAGES[:count], tools, prompt)})
out = {"template": TEMPLATE, "conversation": MESSAGES, "cases": cases, "indented": {"template": INDENTED, "text": render(INDENTED, MESSAGES, TOOLS)}, "tools": TOOLS}
json.dump(out, open(sys.argv[1], "w"), ensure_ascii=False, indent=1)
