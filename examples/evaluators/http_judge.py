"""Lets a judge behind an OpenAI-compatible endpoint grade what a merged model writes.

Goes with http_judge.yaml. Needs transformers and torch; JUDGE_URL, JUDGE_MODEL and JUDGE_KEY say who judges. A judge that
cannot be reached is no fault of the candidate: after a few tries this program ends with an error, and heterosis stops the
run, which `heterosis resume` takes up again, rather than failing everybody.
"""

import json
import os
import re
import sys
import time
import urllib.error
import urllib.request

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = {
    "search": ["Explain why the sky is blue.", "Write a haiku about rain.", "¿Qué es una fracción?"],
    "selection": ["Explain why leaves are green.", "Write a haiku about snow.", "¿Qué es un porcentaje?"],
}
URL = os.environ.get("JUDGE_URL", "http://localhost:8000/v1/chat/completions")
QUESTION = "Grade this answer from 0 to 10. Reply with the number alone.\n\nQuestion: {}\n\nAnswer: {}"


def judged(prompt, text):
    body = {
        "model": os.environ.get("JUDGE_MODEL", "judge"),
        "temperature": 0,
        "messages": [{"role": "user", "content": QUESTION.format(prompt, text)}],
    }
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ.get("JUDGE_KEY", "none")}
    request = urllib.request.Request(URL, json.dumps(body).encode(), headers)
    for rest in (1, 5, 30, None):
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                said = json.load(response)["choices"][0]["message"]["content"]
            break
        except (urllib.error.URLError, TimeoutError) as e:
            if rest is None:
                sys.exit(f"the judge cannot be reached: {e}")
            time.sleep(rest)
    grade = re.search(r"\d+(\.\d+)?", said)
    return min(float(grade.group()), 10.0) / 10.0 if grade else 0.0


def answers(model_dir, prompts):
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=128, do_sample=False)
        yield prompt, tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


for line in sys.stdin:
    asked = json.loads(line)
    grades = [judged(prompt, text) for prompt, text in answers(asked["model_dir"], PROMPTS[asked["split"]])]
    print(json.dumps({"id": asked["id"], "scores": {"grade": sum(grades) / len(grades)}}), flush=True)
