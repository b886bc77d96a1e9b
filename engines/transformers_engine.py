"""heterosis asks transformers: python transformers_engine.py [--device cuda] [--batch 16] [--threads N] [--trust-remote-code]

Runs every causal language model that transformers builds from a config.json and whose weights have the names of its
parameters. Prompts of a batch are padded on the left; `--batch 1` pads nothing, for models that mind.
"""

import argparse
import inspect
import sys

import heterosis_engine
import torch
import transformers


class TransformersEngine(heterosis_engine.Engine):
    name = "transformers"
    dtypes = ("f32", "bf16", "f16")
    can = ("generate", "score", "sample", "reopen")

    def __init__(self, options):
        self.where, self.batch, self.trusts = torch.device(options.device), options.batch, options.trust_remote_code
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}, batch {self.batch}"
        self.device = options.device
        if self.where.type == "cuda":
            self.device = f"{options.device}: {torch.cuda.get_device_name(self.where)}"
        self.model = None

    def open(self, directory, dtype, tensors):
        self.model = None
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=self.trusts)
        build = transformers.AutoModelForCausalLM.from_config
        with self.where:
            model = build(config, dtype=heterosis_engine.torch_dtype(dtype), trust_remote_code=self.trusts)
        model.tie_weights()
        self.model = model.eval().requires_grad_(False)
        # What older and newer versions call the keys and values; and whether only the last logits can be had.
        knows = inspect.signature(model.forward).parameters
        self.cache = "cache" if "cache" in knows else "past_key_values"
        self.last = {"logits_to_keep": 1} if "logits_to_keep" in knows else {}
        self.has_positions = "position_ids" in knows
        # A tied parameter has several names.
        self.places = dict(model.named_parameters(remove_duplicate=False))
        self.places.update(model.named_buffers(remove_duplicate=False))
        # Checkpoints of a bare trunk leave its prefix out.
        prefix = model.base_model_prefix + "."
        self.places.update({name[len(prefix) :]: t for name, t in list(self.places.items()) if name.startswith(prefix)})
        self.expect(tensors)
        text = config.get_text_config()
        return getattr(text, "max_position_embeddings", None) or 1 << 20, text.vocab_size

    def expect(self, tensors):
        """Refuses what would leave a weight as it was made, or has no place."""
        foreign = [name for name in tensors if name not in self.places]
        if foreign:
            raise SystemExit(f"transformers has no place for {len(foreign)} tensors, such as {foreign[0]}")
        for name, shape in tensors.items():
            if tuple(self.places[name].shape) != shape:
                raise SystemExit(f"{name} has shape {shape}, and transformers wants {tuple(self.places[name].shape)}")
        given = {self.places[name].data_ptr() for name in tensors}
        missing = [name for name, t in self.model.named_parameters() if t.data_ptr() not in given]
        if missing:
            raise SystemExit(f"{len(missing)} parameters get no weights, such as {missing[0]}")

    def weights(self, ring, pieces):
        for piece in pieces:
            place = self.places[piece["tensor"]].view(-1)[piece["from"] : piece["from"] + piece["count"]]
            place.copy_(ring.piece(piece))

    def use(self):
        # No call keeps anything for the next one.
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)

    def batches(self, requests, length):
        """Numbers of requests, those of like length together."""
        order = sorted(range(len(requests)), key=lambda i: (length(requests[i]), i))
        return [order[at : at + self.batch] for at in range(0, len(order), self.batch)]

    @torch.inference_mode()
    def generate(self, requests, eos, stops):
        for numbers in self.batches(requests, lambda request: len(request["prompt"])):
            yield from self.continue_batch(numbers, requests, stops)

    def continue_batch(self, numbers, requests, stops):
        rows = [requests[i]["prompt"] for i in numbers]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=self.where)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.where)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        writing = [stops(requests[i]) for i in numbers]
        draws = [self.drawing(requests[i]) for i in numbers]
        finish = [None] * len(numbers)
        cache = None
        while True:
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                use_cache=True,
                **{self.cache: cache},
                **({"position_ids": positions} if self.has_positions else {}),
                **self.last,
            )
            cache, logits = getattr(output, self.cache), output.logits[:, -1].float()
            likeliest = logits.argmax(-1).tolist()
            for row, writer in enumerate(writing):
                if finish[row] is None:
                    token = likeliest[row] if draws[row] is None else draw(logits[row], draws[row])
                    likeliest[row] = token
                    finish[row] = writer.push(token)
                    if finish[row] is not None:
                        yield numbers[row], writer.tokens, finish[row]
            if all(finish):
                return
            ids = torch.tensor(likeliest, device=self.where)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(numbers), 1)], -1)
            positions = positions[:, -1:] + 1

    def drawing(self, request):
        how = request.get("sampling")
        if how is None:
            return None
        # One for each answer: what is drawn does not depend on what else is in the batch.
        return how, torch.Generator().manual_seed(how["seed"] % 2**63)

    @torch.inference_mode()
    def score(self, requests):
        for numbers in self.batches(requests, lambda request: len(request["tokens"])):
            rows = [requests[i]["tokens"] for i in numbers]
            longest = max(map(len, rows))
            # Padded on the right: nothing looks ahead.
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.where)
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.where)
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for row, i in enumerate(numbers):
                first, last = requests[i]["from"], len(rows[row])
                of_row = logits[row, first - 1 : last - 1].float()
                wanted = ids[row, first:last]
                likely = of_row.log_softmax(-1).gather(-1, wanted[:, None]).double().sum().item()
                yield i, likely, bool((of_row.argmax(-1) == wanted).all())


def draw(logits, how):
    """Temperature, top-k, top-p, min-p, in this order."""
    how, generator = how
    logits = logits.cpu().double() / max(how["temperature"], 1e-6)
    order = logits.argsort(descending=True, stable=True)
    if how["top_k"] > 0:
        order = order[: how["top_k"]]
    chances = logits[order].softmax(-1)
    before = chances.cumsum(-1) - chances
    keep = (before < how["top_p"]) & (chances >= how["min_p"] * chances[0])
    keep[0] = True
    chances = torch.where(keep, chances, torch.zeros_like(chances))
    return int(order[torch.multinomial(chances, 1, generator=generator)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--trust-remote-code", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    heterosis_engine.serve(TransformersEngine(options))


if __name__ == "__main__":
    sys.exit(main())
