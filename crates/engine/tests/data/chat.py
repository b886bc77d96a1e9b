"""Chat templates rendered by transformers: `python chat.py` writes chat.json beside this file."""
import json, pathlib
from transformers.utils.chat_template_utils import render_jinja_template

TURNS = [dict(role="system", content=" Be brief. "), dict(role="user", content="2 < 3 & \"x\"\n'é'"),
         dict(role="assistant", content="yes"), dict(role="user", content="why?")]
SPECIAL = dict(bos_token="<s>", eos_token="</s>")
TEMPLATES = {
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "mistral": "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content'] %}\n    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n        {{- raise_exception('roles must alternate') }}\n    {%- endif %}\n    {%- if message['role'] == 'user' %}\n        {%- if loop.first and system_message is defined %}\n            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}\n        {%- else %}\n            {{- ' [INST] ' + message['content'] + ' [/INST]' }}\n        {%- endif %}\n    {%- else %}\n        {{- ' ' + message['content'].strip() + eos_token }}\n    {%- endif %}\n{%- endfor %}\n",
    "blocks": "{{ bos_token }}\n{% for message in messages %}\n    {% if message.role == 'user' %}\n[{{ loop.index }}] {{ message.content | trim }}\n    {% elif message['role'] == \"assistant\" %}\n  {% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}\n\n    {% endif %}\n{% endfor %}\n{%- if add_generation_prompt -%}\n  >\n{% endif %}",
    "reversed_and_json": "{% set ns = namespace(last=none) %}{% for m in messages[::-1] %}{{ m.role[0]|upper }}{% if ns.last is none and m.role == 'user' %}{% set ns.last = m.content %}{% endif %}{% endfor %}|{{ messages[0] | tojson }}|{{ messages[1:2] | tojson(indent=2) }}|{{ ns.last }}|{{ messages|length }}|{{ messages[-1]['content'].startswith('w') }}|{{ tools is none }}|{{ messages[1].content.split('\n')[1] }}",
    "gemma": "{{ bos_token }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] | trim + '\n\n' %}{% set messages = messages[1:] %}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
}
out = []
for name, template in TEMPLATES.items():
    for turns in (TURNS, TURNS[1:]):
        for prompt in (True, False):
            text = render_jinja_template([turns], chat_template=template, add_generation_prompt=prompt, **SPECIAL)[0][0]
            out.append(dict(name=name, template=template, messages=turns, add_generation_prompt=prompt, special=SPECIAL, text=text))
path = pathlib.Path(__file__).parent / "chat.json"
path.write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")
