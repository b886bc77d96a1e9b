"""The engine protocol of heterosis, version 1 (docs/engines.md): requests on stdin, replies on stdout, weights by a file.

An engine is a class with the methods of `Engine`; `serve` does the rest. Needs Python 3.9 or newer, and `tokenizers` where
answers shall end at stop strings (without it they are longer than they need be, and heterosis cuts them).
"""

import json
import mmap
import os
import sys

PROTOCOL = 1

# Answers that are waited for before a line of them is written.
FEW = 64


class Engine:
    """What an engine does. Faults are exceptions: the program ends, and heterosis starts it again."""

    name = "engine"
    #: Everything that can change an answer: its own version, and those of what it computes with.
    version = "0"
    device = "cpu"
    dtypes = ("f32",)
    #: "generate", and of "score", "sample" and "reopen" (another model without a new start) what it can.
    can = ("generate",)

    def open(self, directory, dtype, tensors):
        """Makes room for the model whose config.json lies in the directory. `tensors` are names and shapes of all its
        weights. Gives its longest sequence and the size of its vocabulary, in tokens."""
        raise NotImplementedError

    def weights(self, ring, pieces):
        """Takes pieces of tensors, by `ring.piece`; the ring is written anew afterwards."""
        raise NotImplementedError

    def use(self):
        """The weights are whole: forgets everything that was computed with others."""
        raise NotImplementedError

    def generate(self, requests, eos, stops):
        """Continues prompts. Yields (number, tokens, "eos" | "stop" | "length") of each, in any order; `stops(request)`
        gives a `Stops` that says when an answer has ended."""
        raise NotImplementedError

    def score(self, requests):
        """Scores texts. Yields (number, log-likelihood of tokens[from:], whether each was the likeliest)."""
        raise NotImplementedError


class Ring:
    """The file that weights come in, mapped."""

    def __init__(self, file, dtype):
        with open(file, "rb") as opened:
            self.bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self.file, self.dtype = file, dtype

    def piece(self, piece):
        """The elements of a piece as a torch tensor. It is a copy: the ring is written anew when the pieces are taken."""
        import torch

        kind = torch_dtype(self.dtype)
        size = kind.itemsize * piece["count"]
        return torch.frombuffer(bytearray(self.bytes[piece["at"] : piece["at"] + size]), dtype=kind)


def torch_dtype(name):
    import torch

    return {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[name]


class Stops:
    """Whether an answer has ended, told its tokens one by one."""

    def __init__(self, request, eos, tokenizer):
        self.eos, self.most, self.tokenizer = eos, request["max_tokens"], tokenizer
        self.stop = [text for text in request.get("stop", []) if text] if tokenizer else []
        # A character takes four tokens at most, where each is a byte.
        self.window = 4 * max((len(text) for text in self.stop), default=0) + 8
        self.tokens = []

    def push(self, token):
        """Why the answer has ended with this token, or None."""
        self.tokens.append(token)
        if token in self.eos:
            return "eos"
        if self.stop:
            text = self.tokenizer.decode(self.tokens[-self.window :], skip_special_tokens=True)
            if any(stop in text for stop in self.stop):
                return "stop"
        return "length" if len(self.tokens) >= self.most else None


def serve(engine):
    """Answers until stdin is closed."""
    # Libraries print, and what they print is no reply.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    state = {"ring": None, "dtype": None, "tokenizer": None}
    for line in sys.stdin:
        request = json.loads(line)
        for reply in answer(engine, request, state):
            replies.write(json.dumps({"id": request["id"], **reply}) + "\n")
            replies.flush()


def answer(engine, request, state):
    op = request["op"]
    if op == "hello":
        yield {
            "done": True,
            "protocol": PROTOCOL,
            "name": engine.name,
            "version": engine.version,
            "device": engine.device,
            "dtypes": list(engine.dtypes),
            "can": list(engine.can),
        }
    elif op == "open":
        state["dtype"] = request["dtype"]
        state["ring"] = Ring(request["ring"]["file"], request["dtype"])
        tensors = {tensor["name"]: tuple(tensor["shape"]) for tensor in request["tensors"]}
        context, vocab = engine.open(request["dir"], request["dtype"], tensors)
        yield {"done": True, "context": context, "vocab": vocab}
    elif op == "tokenizer":
        state["tokenizer"] = tokenizer(request["dir"])
        yield {"done": True}
    elif op == "weights":
        engine.weights(state["ring"], request["pieces"])
        yield {"done": True}
    elif op == "use":
        engine.use()
        yield {"done": True}
    elif op == "generate":
        eos = set(request["eos"])
        found = engine.generate(request["requests"], eos, lambda r: Stops(r, eos, state["tokenizer"]))
        yield from told({"i": i, "tokens": tokens, "finish": finish} for i, tokens, finish in found)
    elif op == "score":
        found = engine.score(request["requests"])
        yield from told({"i": i, "log_likelihood": score, "greedy": greedy} for i, score, greedy in found)
    else:
        yield {"error": f"there is no '{op}' here"}


def told(answers):
    some = []
    for one in answers:
        some.append(one)
        if len(some) == FEW:
            yield {"answers": some}
            some = []
    yield {"answers": some, "done": True}


def tokenizer(directory):
    try:
        from tokenizers import Tokenizer
    except ImportError:
        print("tokenizers is not installed: answers do not end at stop strings here", file=sys.stderr)
        return None
    return Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
