"""Asks a merged model questions of one's own at the address where heterosis has it answer; nothing but Python is needed.

Goes with endpoint.yaml. The request has `endpoint` with `base_url`, `api_key` and `model`, in the words of OpenAI's clients
(`openai.OpenAI(base_url=…, api_key=…)` works as well); the model is merged in memory and answers until this program has
replied. Here all questions of a split are one request, which is one batch.
"""

import json
import re
import sys
import urllib.request

QUESTIONS = {
    "search": [
        ("Luis tiene 23 dulces. Luego Luis triplica los dulces. Luis vende 3 de los dulces. ¿Cuántos dulces tiene Luis ahora?", 66),
        ("Tom tiene 31 dulces. Tom va a la playa y gana 9 dulces. En la caja de Ana hay 8 dulces. Después de clase Tom recibe 14 dulces. Más tarde Tom recibe 4 dulces. Hoy Tom pierde 14 dulces. Dime cuántos dulces tiene Tom.", 44),
        ("Ana tiene 27 lápices. Ana pierde 10 de los lápices. Por la mañana Ana gana 13 lápices. Dime cuántos lápices tiene Ana.", 30),
        ("En la caja de Eva hay 22 piedras. Después de clase Eva gana 12 piedras. Eva juega con Zoe. Eva encuentra 3 piedras. Dime cuántas piedras tiene Eva.", 37),
        ("Eva tiene 28 piedras. Eva pierde 5 piedras. Eva duplica las piedras. Eva gana 15 piedras. ¿Cuántas piedras tiene Eva al final?", 61),
        ("En la caja de Hugo hay 26 juguetes. Hugo va al mercado y encuentra 10 juguetes. Hugo gana 7 juguetes. Luego Hugo dona 6 juguetes. Hugo encuentra 8 juguetes más. ¿Cuántos juguetes tiene Hugo ahora?", 45),
        ("En la caja de Eva hay 25 monedas. Hoy Eva compra 11 monedas. El lunes Eva duplica las monedas. ¿Cuántas monedas tiene Eva ahora?", 72),
        ("Rosa tiene 16 lápices. Rosa pierde 14 de los lápices. Por la mañana Rosa triplica los lápices. Rosa compra 15 lápices más. ¿Cuántos lápices tiene Rosa al final?", 21),
    ],
    "selection": [
        ("Luis tiene 25 cartas. Luis va a la ciudad y gana 10 cartas. Luis compra 19 cartas más. ¿Cuántas cartas tiene Luis al final?", 54),
        ("Leo tiene 42 manzanas. Leo compra 9 manzanas más. Leo compra 13 manzanas. Después de clase Leo ve muchas manzanas. Después de clase Leo encuentra 9 manzanas. Leo recibe 14 manzanas más. ¿Cuántas manzanas tiene Leo ahora?", 87),
        ("Hugo tiene 29 piedras. Después de clase Hugo triplica las piedras. Hugo va a la playa y gana 5 piedras. Más tarde Hugo rompe 6 piedras. ¿Cuántas piedras tiene Hugo al final?", 86),
        ("Zoe tiene 28 piedras. Zoe encuentra 7 piedras más. Mia encuentra 17 piedras. Zoe va a la ciudad y rompe 15 piedras. Dime cuántas piedras tiene Zoe.", 20),
        ("Hugo tiene 10 huevos. Hugo recibe 18 huevos. Hugo va al jardín y encuentra 13 huevos. Hugo va a la playa y gana 14 huevos. ¿Cuántos huevos tiene Hugo al final?", 55),
        ("En la caja de Mia hay 30 cartas. Mia pierde 10 cartas. Mia vende 7 cartas. Mia triplica las cartas. ¿Cuántas cartas tiene Mia al final?", 39),
        ("En la caja de Ana hay 29 sellos. Ana va al jardín y dona 13 sellos. Después de clase Ana recibe 11 sellos. Ana dona 11 de los sellos. Ana recibe 10 sellos más. ¿Cuántos sellos tiene Ana al final?", 26),
        ("En la caja de Eva hay 18 manzanas. Por la mañana Eva tiene 4 veces más manzanas. Eva va a la ciudad y gana 14 manzanas. Hoy Eva vende 5 manzanas. Eva vende 14 manzanas. Dime cuántas manzanas tiene Eva.", 67),
    ],
}


def post(endpoint, path, body):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + endpoint["api_key"]}
    body = json.dumps({"model": endpoint["model"], **body}).encode()
    with urllib.request.urlopen(urllib.request.Request(endpoint["base_url"] + path, body, headers)) as response:
        return json.load(response)


def last_number(text):
    numbers = re.findall(r"-?\d+", text)
    return int(numbers[-1]) if numbers else None


for line in sys.stdin:
    asked = json.loads(line)
    questions = QUESTIONS[asked["split"]]
    prompts = [f"Q: {question} A:" for question, _ in questions]
    told = post(asked["endpoint"], "/completions", {"prompt": prompts, "max_tokens": 48, "temperature": 0, "stop": ["\n"]})
    texts = [choice["text"] for choice in sorted(told["choices"], key=lambda choice: choice["index"])]
    right = sum(last_number(text) == gold for text, (_, gold) in zip(texts, questions))
    tokens = told["usage"]["completion_tokens"] / len(questions)
    print(json.dumps({"id": asked["id"], "scores": {"accuracy": right / len(questions), "tokens": tokens}}), flush=True)
