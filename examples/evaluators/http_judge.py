"""Lets a judge behind an OpenAI-compatible endpoint grade what a merged model writes.

Goes with http_judge.yaml. JUDGE_URL, JUDGE_MODEL and JUDGE_KEY say who judges; the merged model answers at an address of
heterosis' own (`serve: true`), so that nothing but Python is needed. A judge that cannot be reached is no fault of the
candidate: after a few tries this program ends with an error, and heterosis stops the run, which `heterosis resume` takes
up again, rather than failing everybody.
"""

import json
import os
import re
import sys
import time
import urllib.error
import urllib.request

PROMPTS = {
    "search": ["Explain why the sky is blue.", "Write a haiku about rain.", "¿Qué es una fracción?"],
    "selection": ["Explain why leaves are green.", "Write a haiku about snow.", "¿Qué es un porcentaje?"],
}
URL = os.environ.get("JUDGE_URL", "http://localhost:8000/v1/chat/completions")
QUESTION = "Grade this answer from 0 to 10. Reply with the number alone.\n\nQuestion: {}\n\nAnswer: {}"


def post(url, key, body):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return json.load(response)


def judged(prompt, text):
    body = {
        "model": os.environ.get("JUDGE_MODEL", "judge"),
        "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION.format(prompt, text)}],
    }
    for rest in (1, 5, 30, None):
        try:
            said = post(URL, os.environ.get("JUDGE_KEY", "none"), body)["choices"][0]["message"]["content"]
            break
        except (urllib.error.URLError, TimeoutError) as e:
            if rest is None:
                sys.exit(f"the judge cannot be reached: {e}")
            time.sleep(rest)
    grade = re.search(r"\d+(\.\d+)?", said)
    return min(float(grade.group()), 10.0) / 10.0 if grade else 0.0


def answers(endpoint, prompts):
    # Chat models: /chat/completions with one message each.
    body = {"model": endpoint["model"], "prompt": prompts, "max_tokens": 128, "temperature": 0}
    told = post(endpoint["base_url"] + "/completions", endpoint["api_key"], body)
    return [choice["text"] for choice in sorted(told["choices"], key=lambda choice: choice["index"])]


for line in sys.stdin:
    asked = json.loads(line)
    prompts = PROMPTS[asked["split"]]
    grades = [judged(prompt, text) for prompt, text in zip(prompts, answers(asked["endpoint"], prompts))]
    print(json.dumps({"id": asked["id"], "scores": {"grade": sum(grades) / len(grades)}}), flush=True)
