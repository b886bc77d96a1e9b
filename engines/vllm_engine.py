"""heterosis asks vLLM, 0.21 or newer: python vllm_engine.py [--tensor-parallel-size N] [--gpu-memory-utilization 0.8] [...]

The model is made with dummy weights and without a tokenizer; weights come through vLLM's own reloading
(`Worker.reload_weights`), which puts them into whatever form its kernels want, and the prefix cache is reset after each
candidate. Each worker keeps a copy of the weights in host memory, since that reloads whole layers. Every sampling
parameter is said, because vLLM takes defaults from some models' files.

Written against the sources of vLLM 0.22 and 0.33; not yet run on a device by its authors.
"""

import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# Workers are processes of their own, and import this file too.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))
sys.path.insert(0, HERE)

import heterosis_engine  # noqa: E402

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


class RingReader:
    """Mixed into vLLM's worker by `worker_extension_cls`: methods that `collective_rpc` calls in each."""

    def heterosis_open(self, dtype, tensors):
        import torch

        kind = heterosis_engine.torch_dtype(dtype)
        self.heterosis_ring = None
        self.heterosis_held = {name: torch.empty(shape, dtype=kind) for name, shape in tensors.items()}

    def heterosis_take(self, file, dtype, pieces):
        if self.heterosis_ring is None:
            self.heterosis_ring = heterosis_engine.Ring(file, dtype)
        for piece in pieces:
            held = self.heterosis_held[piece["tensor"]].view(-1)
            held[piece["from"] : piece["from"] + piece["count"]] = self.heterosis_ring.piece(piece)

    def heterosis_use(self):
        self.reload_weights(weights_iterator=iter(self.heterosis_held.items()), is_checkpoint_format=True)


class VllmEngine(heterosis_engine.Engine):
    name = "vllm"
    dtypes = ("bf16", "f16", "f32")
    # Another model takes another start: memory and graphs are laid out once.
    can = ("generate", "score", "sample")

    def __init__(self, options):
        import torch
        import vllm

        # Not torch.cuda: this process must leave the card to its workers.
        from vllm.platforms import current_platform

        self.options, self.vllm = options, vllm
        self.version = f"vllm {vllm.__version__}, torch {torch.__version__}, {' '.join(sys.argv[1:])}".rstrip(", ")[:200]
        self.device = f"{current_platform.device_type}: {current_platform.get_device_name()}"
        self.llm, self.asked = None, 0

    def open(self, directory, dtype, tensors):
        options = self.options
        more = {} if options.max_model_len is None else {"max_model_len": options.max_model_len}
        self.llm = self.vllm.LLM(
            model=directory,
            load_format="dummy",
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype=DTYPES[dtype],
            seed=0,
            enable_prefix_caching=True,
            enforce_eager=options.enforce_eager,
            tensor_parallel_size=options.tensor_parallel_size,
            gpu_memory_utilization=options.gpu_memory_utilization,
            trust_remote_code=options.trust_remote_code,
            worker_extension_cls="vllm_engine.RingReader",
            **more,
        )
        self.llm.collective_rpc("heterosis_open", args=(dtype, tensors))
        config = self.llm.llm_engine.model_config
        # A text that is scored has one more token after it.
        return config.max_model_len - 1, config.get_vocab_size()

    def weights(self, ring, pieces):
        self.llm.collective_rpc("heterosis_take", args=(ring.file, ring.dtype, pieces))

    def use(self):
        self.llm.collective_rpc("heterosis_use")
        # Keys and values of earlier weights would be taken for those of these.
        if self.llm.reset_prefix_cache() is False:
            raise RuntimeError("vLLM did not reset its prefix cache")

    def parameters(self, **said):
        """All of them said: nothing is taken from a model's files."""
        usual = {
            "n": 1,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "seed": None,
            "stop": None,
            "stop_token_ids": None,
            "bad_words": None,
            "ignore_eos": True,
            "min_tokens": 0,
            "logprobs": None,
            "prompt_logprobs": None,
            "detokenize": False,
            "logit_bias": None,
            "allowed_token_ids": None,
        }
        return self.vllm.SamplingParams(**{**usual, **said})

    def run(self, prompts):
        """(number, output) of each step of each (number, prompt, parameters); the caller may `abort` a number."""
        engine = self.llm.llm_engine
        self.numbers = {}
        for i, prompt, parameters in prompts:
            self.asked += 1
            name = f"heterosis-{self.asked}"
            self.numbers[name] = i
            engine.add_request(name, {"prompt_token_ids": prompt}, parameters)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.request_id in self.numbers:
                    yield output.request_id, self.numbers[output.request_id], output

    def generate(self, requests, eos, stops):
        prompts = []
        for i, request in enumerate(requests):
            drawn = request.get("sampling")
            how = {} if drawn is None else {**drawn, "seed": drawn["seed"] % 2**63}
            said = self.parameters(max_tokens=request["max_tokens"], stop_token_ids=sorted(eos), **how)
            prompts.append((i, request["prompt"], said))
        writing = [stops(request) for request in requests]
        for name, i, output in self.run(prompts):
            tokens = list(output.outputs[0].token_ids)
            reason = output.outputs[0].stop_reason
            if output.finished and reason in eos and tokens[-1:] != [reason]:
                tokens.append(reason)
            finish = None
            for token in tokens[len(writing[i].tokens) :]:
                finish = writing[i].push(token)
                if finish is not None:
                    break
            if finish is None and output.finished:
                raise RuntimeError(f"vLLM ended an answer for no reason: {output.outputs[0].finish_reason}")
            if finish is not None:
                if not output.finished:
                    self.llm.llm_engine.abort_request([name])
                del self.numbers[name]
                yield i, writing[i].tokens, finish

    def score(self, requests):
        # The likeliest token at each place, and the one that stands there.
        said = {"max_tokens": 1, "prompt_logprobs": 1}
        prompts = [(i, request["tokens"], self.parameters(**said)) for i, request in enumerate(requests)]
        for name, i, output in self.run(prompts):
            if not output.finished:
                continue
            del self.numbers[name]
            tokens, first = requests[i]["tokens"], requests[i]["from"]
            here = [output.prompt_logprobs[at][tokens[at]] for at in range(first, len(tokens))]
            yield i, sum(one.logprob for one in here), all(one.rank == 1 for one in here)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.8)
    parser.add_argument("--max-model-len", type=int, default=None)
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--trust-remote-code", action="store_true")
    heterosis_engine.serve(VllmEngine(parser.parse_args()))


if __name__ == "__main__":
    main()
