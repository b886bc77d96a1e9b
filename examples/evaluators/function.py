"""An evaluator in a dozen lines: any Python function of the genes, nothing else installed.

Goes with function.yaml. The function is Rosenbrock's banana in x and y, with a choice of solver that costs something.
"""

import json
import sys

for line in sys.stdin:
    asked = json.loads(line)
    genes = asked["genotype"]
    x, y = genes["x"], genes["y"]
    height = (1 - x) ** 2 + 100 * (y - x * x) ** 2
    cost = (0.0, 0.5)[int(genes["solver"])]  # a choice is its place in the list
    reply = {"id": asked["id"], "scores": {"height": height, "cost": cost}}
    print(json.dumps(reply), flush=True)
