"""Writes the small checkpoints in models/ and what mergekit makes of them in cases/.

    pip install mergekit==0.1.5 torch transformers
    python generate.py [--out DIR] [--seed 5]

Every model is a Llama of 3 layers and width 16 in float32 (those called *16 in bfloat16). a, b and c are near base, far is
not, tied has no head of its own, x and y have vocabularies of their own.
"""
import argparse, json, os, shutil
import torch, yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models as tk
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

W = lambda model, **p: dict(model=model, parameters=p) if p else dict(model=model)
GTA = dict(dtype="float32", base_model="base")
F32 = dict(dtype="float32")
CASES = {
    "linear": dict(merge_method="linear", **F32, models=[W("a", weight=0.3), W("b", weight=-0.1), W("far", weight=0.4)]),
    "linear_slices": dict(merge_method="linear", **F32, slices=[
        dict(sources=[dict(W("a", weight=[0.2, 0.8]), layer_range=[0, 2]), dict(W("b", weight=0.7), layer_range=[1, 3])]),
        dict(sources=[dict(W("b", weight=[0.1, 0.9]), layer_range=[2, 3]),
                      dict(W("c", weight=[dict(filter="mlp", value=0.3), dict(value=[1, 2])]), layer_range=[0, 1])],
             parameters=dict(normalize=False))]),
    "linear_to_bf16": dict(merge_method="linear", dtype="float32", out_dtype="bfloat16", models=[W("a16", weight=0.3), W("b16", weight=0.5)]),
    "linear_to_f16": dict(merge_method="linear", dtype="float32", out_dtype="float16", models=[W("a", weight=0.3), W("b", weight=0.5)]),
    "filters": dict(merge_method="linear", **F32, parameters=dict(weight=0.25), models=[
        W("a", weight=1), W("b", weight=[dict(filter="layers.1.", value=3), dict(filter="mlp", value=[0.5, 0.1])])]),
    "slerp": dict(merge_method="slerp", **F32, base_model="b", models=[W("a"), W("b")],
                  parameters=dict(t=[dict(filter="self_attn", value=[0, 0.5, 0.3, 1]), dict(filter="lm_head", value=[0.7, 0]), dict(value=0.45)])),
    "slerp_far": dict(merge_method="slerp", **F32, base_model="a", models=[W("far")], parameters=dict(t=0.37)),
    "task_arithmetic": dict(merge_method="task_arithmetic", **GTA, parameters={"lambda": [0.5, 1.5], "weight": 0.4, "normalize": True},
                            models=[W("a"), W("b", weight=-0.2), W("c", weight=2)]),
    "ties": dict(merge_method="ties", **GTA, models=[W("a", weight=0.7, density=0.5), W("b", weight=0.6, density=[0.3, 0.9]), W("c", weight=-0.5, density=0.8)]),
    "ties_rescaled": dict(merge_method="ties", **GTA, parameters={"normalize": [True, False], "rescale": True, "lambda": 1.3, "int8_mask": True},
                          models=[W("a", weight=1, density=0.53), W("b", weight=[0.1, 0.9], density=0.2)]),
    "dare_whole": dict(merge_method="dare_ties", **GTA, models=[W("a", weight=0.5, density=1), W("b", weight=0.6)]),
    "della_whole": dict(merge_method="della_linear", **GTA, models=[W("a", weight=0.5, density=1), W("b", weight=0.6)]),
    "breadcrumbs": dict(merge_method="breadcrumbs", **GTA, models=[W("a", weight=0.7, density=0.6, gamma=0.05), W("b", weight=0.6, density=0.9, gamma=0.3)]),
    "breadcrumbs_ties": dict(merge_method="breadcrumbs_ties", **GTA, models=[W("a", weight=0.7, density=0.6, gamma=0.05), W("b", weight=0.6, density=0.8, gamma=0.001)]),
    "model_stock": dict(merge_method="model_stock", **GTA, models=[W("a"), W("b"), W("c")]),
    "model_stock_rows": dict(merge_method="model_stock", **GTA, parameters=dict(filter_wise=True), models=[W("a"), W("b")]),
    "nuslerp": dict(merge_method="nuslerp", **F32, models=[W("a", weight=0.4), W("far", weight=0.6)]),
    "nuslerp_rows": dict(merge_method="nuslerp", **GTA, parameters=dict(nuslerp_flatten=False), models=[W("a", weight=0.4), W("b", weight=0.6)]),
    "nuslerp_columns": dict(merge_method="nuslerp", **F32, parameters=dict(nuslerp_flatten=False, nuslerp_row_wise=True), models=[W("a", weight=0.4), W("far", weight=0.6)]),
    "multislerp": dict(merge_method="multislerp", **GTA, models=[W("a", weight=0.4), W("b", weight=0.6), W("far", weight=0.3)]),
    "karcher": dict(merge_method="karcher", **F32, parameters=dict(max_iter=20), models=[W("a"), W("far"), W("c")]),
    "sce": dict(merge_method="sce", **GTA, parameters=dict(select_topk=0.4), models=[W("a"), W("b"), W("far")]),
    "nearswap": dict(merge_method="nearswap", **F32, base_model="a", models=[W("b")], parameters=dict(t=0.002)),
    "arcee_fusion": dict(merge_method="arcee_fusion", **F32, base_model="a", models=[W("b")]),
    "ram": dict(merge_method="ram", **GTA, parameters=dict(epsilon=0.004), models=[W("a"), W("b"), W("c")]),
    "ramplus_tl": dict(merge_method="ramplus_tl", **GTA, parameters=dict(epsilon=0.004, r=0.3), models=[W("a"), W("b")]),
    "frankenmerge": dict(merge_method="passthrough", **F32, slices=[
        dict(sources=[dict(W("a"), layer_range=[0, 2])]),
        dict(sources=[dict(W("b", scale=[dict(filter="o_proj", value=0.5), dict(filter="down_proj", value=0.5), dict(value=1.0)]), layer_range=[1, 3])])]),
    # No dtype: mergekit promotes each tensor's inputs.
    "native_linear": dict(merge_method="linear", models=[W("a16", weight=0.3), W("b16", weight=0.5)]),
    "native_slerp": dict(merge_method="slerp", base_model="a16", models=[W("a16"), W("b16")], parameters=dict(t=0.3)),
    "mixed_linear": dict(merge_method="linear", models=[W("a16", weight=0.3), W("b", weight=0.5)]),
    "mixed_linear_sixteen": dict(merge_method="linear", models=[W("a16", weight=0.3), W("b_f16", weight=0.5)]),
    "mixed_slerp": dict(merge_method="slerp", base_model="a16", models=[W("a16"), W("b_f16")], parameters=dict(t=0.3)),
    "mixed_task_arithmetic": dict(merge_method="task_arithmetic", base_model="base16", models=[W("a", weight=0.7), W("b", weight=0.4)]),
    "mixed_task_arithmetic_base_f32": dict(merge_method="task_arithmetic", base_model="base", models=[W("a16", weight=0.7), W("b_f16", weight=0.4)]),
    "mixed_ties": dict(merge_method="ties", base_model="base16", models=[W("a", weight=0.7, density=0.5), W("b", weight=0.6, density=0.8)]),
    "mixed_passthrough": dict(merge_method="passthrough", slices=[
        dict(sources=[dict(W("a16"), layer_range=[0, 2])]), dict(sources=[dict(W("b"), layer_range=[2, 3])])]),
    "mixed_out_f16": dict(merge_method="linear", out_dtype="float16", models=[W("a16", weight=0.3), W("b", weight=0.5)]),
    # Models that also see, in mergekit's words for their parts.
    "modules": dict(merge_method="task_arithmetic", dtype="float32", base_model="see", parameters=dict(weight=0.5), modules=dict(
        text_decoder=dict(models=[W("see_a", weight=[dict(filter="mlp", value=0.3), dict(value=0.8)]), W("see_b")], parameters={"lambda": 1.2}),
        vision_tower=dict(models=[W("see")]), multi_modal_projector=dict(models=[W("see_b", weight=0.25)]))),
    "modules_stacked": dict(merge_method="passthrough", dtype="float32", modules=dict(
        text_decoder=dict(slices=[dict(sources=[dict(W("see_a"), layer_range=[0, 2])]), dict(sources=[dict(W("see_b"), layer_range=[1, 2])])]),
        vision_tower=dict(models=[W("see_b")]), multi_modal_projector=dict(models=[W("see_a")]))),
    "modules_all_alike": dict(merge_method="linear", dtype="float32", models=[W("see_a", weight=0.4), W("see_b", weight=0.6)]),
    "tied_and_untied": dict(merge_method="linear", **F32, models=[W("a", weight=0.3), W("tied", weight=0.5)]),
    "tied_only": dict(merge_method="linear", **F32, models=[W("tied", weight=1.0)]),
    "tokens_union": dict(merge_method="linear", **F32, base_model="a", tokenizer_source="union", models=[W("a", weight=1), W("x", weight=2), W("y", weight=1)]),
    "tokens_base": dict(merge_method="ties", **F32, base_model="x", tokenizer_source="base", models=[W("a", weight=1, density=0.5), W("y", weight=2)]),
    "tokens_of_model": dict(merge_method="slerp", **F32, base_model="x", tokenizer_source="y", models=[W("y")], parameters=dict(t=0.4)),
    "tokens_ruled": dict(merge_method="linear", **F32, base_model="a", models=[W("a", weight=1), W("x", weight=2)], tokenizer=dict(
        source="union", pad_to_multiple_of=8, tokens={"w3": dict(source="x", force=True), "new": dict(source=dict(kind="model_token", model="x", token="w5")),
                                                     "w1": dict(source=dict(kind="zero"), force=True)})),
}


def save(out, name, model, words, sixteen=True):
    vocab = {w: i for i, w in enumerate(words)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(tk.WordLevel(vocab, unk_token=words[0])), unk_token=words[0])
    for suffix, dtype in [("", torch.float32)] + ([("16", torch.bfloat16)] if sixteen else []):
        d = f"{out}/models/{name}{suffix}"
        model.to(dtype).save_pretrained(d)
        tokenizer.save_pretrained(d)
        for f in ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json"]:
            if os.path.exists(f"{d}/{f}") and suffix: os.remove(f"{d}/{f}")


def build(rows=32, tie=False):
    return LlamaForCausalLM(LlamaConfig(vocab_size=rows, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
                                        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tie)).float()


def neighbour(base, model):
    own = dict(model.named_parameters())
    for name, p in base.named_parameters():
        if name in own and own[name].shape == p.shape: own[name].data = p.data.clone()
    for p in model.parameters():
        p.data += 0.004 * torch.randn_like(p) + 0.03 * torch.randn_like(p) * (torch.rand_like(p) < 0.05)
    return model


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    ap.add_argument("--seed", type=int, default=5)
    ap.add_argument("--cases", nargs="*", help="make these only, of the models that are there")
    args = ap.parse_args()
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    out = os.path.abspath(args.out)
    if args.cases:
        if any(case.startswith("modules") for case in args.cases): seeing(out)
        again(out)
        return merge({name: CASES[name] for name in args.cases}, out, run_merge, MergeConfiguration, MergeOptions)
    for d in ["models", "cases"]: shutil.rmtree(f"{out}/{d}", ignore_errors=True)
    torch.manual_seed(args.seed)
    words = [f"w{i}" for i in range(32)]
    base = build()
    for p in base.parameters(): p.data += 0.02 * torch.randn_like(p)
    save(out, "base", base, words, False)
    base = base.float()
    for name in "abc":
        save(out, name, neighbour(base, build()), words, name in "ab")
    far = build()
    for p in far.parameters(): p.data += 0.01 * torch.randn_like(p)
    save(out, "far", far, words, False)
    save(out, "tied", neighbour(base, build(tie=True)), words, False)
    save(out, "x", neighbour(base, build(28)), [f"w{i}" for i in range(20, -1, -1)] + [f"x{i}" for i in range(7)], False)
    save(out, "y", neighbour(base, build(34)), [f"w{i}" for i in range(5, 25)] + [f"x{i}" for i in range(4)] + [f"y{i}" for i in range(10)], False)

    again(out)
    seeing(out)
    merge(CASES, out, run_merge, MergeConfiguration, MergeOptions)
    for d in os.listdir(f"{out}/models"):
        if not os.path.exists(f"{out}/models/{d}/tokenizer.json"): continue
        # The tests need no tokenizer, only the order of tokens.
        vocab = json.load(open(f"{out}/models/{d}/tokenizer.json"))["model"]["vocab"]
        json.dump(vocab, open(f"{out}/models/{d}/vocab.json", "w"))
        for f in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"]:
            if os.path.exists(f"{out}/models/{d}/{f}"): os.remove(f"{out}/models/{d}/{f}")



def again(out):
    """Models of the same weights in other types."""
    for name, other, dtype in [("base", "base16", torch.bfloat16), ("b", "b_f16", torch.float16)]:
        here, there = f"{out}/models/{name}", f"{out}/models/{other}"
        os.makedirs(there, exist_ok=True)
        tensors = load_file(f"{here}/model.safetensors")
        save_file({n: t.to(dtype) for n, t in tensors.items()}, f"{there}/model.safetensors", metadata={"format": "pt"})
        config = json.load(open(f"{here}/config.json"))
        json.dump(dict(config, dtype=str(dtype).split(".")[1]), open(f"{there}/config.json", "w"), indent=2)
        for f in ["tokenizer.json", "vocab.json"]:
            if os.path.exists(f"{here}/{f}"): shutil.copy(f"{here}/{f}", f"{there}/{f}")


def seeing(out):
    """Three tiny Mistral 3 with a vision tower; tokenizers are not needed."""
    from transformers import AutoConfig, AutoModelForImageTextToText
    torch.manual_seed(8)
    config = AutoConfig.for_model("mistral3", tie_word_embeddings=False, vision_config=dict(
        model_type="pixtral", hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=1, image_size=8, patch_size=4),
        text_config=dict(model_type="mistral", vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, max_position_embeddings=64))
    for name in ["see", "see_a", "see_b"]:
        model = AutoModelForImageTextToText.from_config(config)
        for p in model.parameters(): p.data += 0.05 * torch.randn_like(p)
        model.save_pretrained(f"{out}/models/{name}")
        if os.path.exists(f"{out}/models/{name}/generation_config.json"): os.remove(f"{out}/models/{name}/generation_config.json")


def merge(cases, out, run_merge, MergeConfiguration, MergeOptions):
    where = lambda m: f"{out}/models/{m}"
    def resolve(node, to):
        if isinstance(node, dict):
            return {k: to(v) if k in ("model", "base_model") or (k in ("tokenizer_source", "source") and v not in ("base", "union")) and isinstance(v, str) else resolve(v, to) for k, v in node.items()}
        return [resolve(v, to) for v in node] if isinstance(node, list) else node

    for name, case in cases.items():
        d, tmp = f"{out}/cases/{name}", f"{out}/tmp"
        shutil.rmtree(d, ignore_errors=True); os.makedirs(d)
        run_merge(MergeConfiguration.model_validate(resolve(case, where)), tmp,
                  MergeOptions(copy_tokenizer=False, lazy_unpickle=False, write_model_card=False))
        shutil.copy(f"{tmp}/config.json", f"{d}/config.json")
        save_file(load_file(f"{tmp}/model.safetensors"), f"{d}/merged.safetensors")
        if os.path.exists(f"{tmp}/tokenizer.json"):
            vocab = PreTrainedTokenizerFast(tokenizer_file=f"{tmp}/tokenizer.json").get_vocab()
            json.dump(vocab, open(f"{d}/vocab.json", "w"))
        yaml.safe_dump(resolve(case, lambda m: f"models/{m}"), open(f"{d}/recipe.yaml", "w"), sort_keys=False)
        shutil.rmtree(tmp)
        print("ok", name)


main()
