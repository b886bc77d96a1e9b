"""Scores merged models that see, with pictures: the share of right answers about colours and about sides.

Goes with pictures.yaml; pictures_models.py makes the models and the pictures. Needs torch and transformers. Where a candidate
has bred only language halves, its vision tower is the base's, bit for bit.
"""

import json
import sys

import torch
from transformers import AutoModelForImageTextToText

from pictures_models import answers, questions

SEEDS = {"search": 1, "selection": 2}

torch.set_num_threads(1)
for line in sys.stdin:
    asked = json.loads(line)
    model = AutoModelForImageTextToText.from_pretrained(asked["model_dir"], dtype=torch.float32).eval()
    scores = {}
    for task in ("colour", "side"):
        pixels, ids, right = questions(task, 200, SEEDS[asked["split"]])
        with torch.no_grad():
            scores[task] = float((answers(model, pixels, ids).argmax(-1) == right).float().mean())
    print(json.dumps({"id": asked["id"], "scores": scores}), flush=True)
