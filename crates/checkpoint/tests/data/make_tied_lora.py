"""Adapters on a model whose head is tied to its embeddings, and DoRA, trained biases and tokens: what peft makes of them.

    pip install torch transformers peft safetensors
    python make_tied_lora.py lora/tied

OUT/base, OUT/KIND/adapter_* and OUT/KIND/expected.safetensors: the weights as the *unmerged* adapter computes with them. They
are read off a copy of the base with a head of its own, merged; that copy's logits are checked against the unmerged ones.
"""
import os, pathlib, sys, warnings
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

warnings.filterwarnings("ignore")
KINDS = {
    "embeddings_saved": dict(target_modules=["v_proj"], modules_to_save=["embed_tokens"]),
    "both_saved": dict(target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "both_saved_as_one": dict(target_modules=["v_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "lora_on_embeddings": dict(target_modules=["embed_tokens"]),
    "lora_on_head": dict(target_modules=["lm_head"]),
    "lora_on_both_as_one": dict(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "tokens": dict(target_modules=["v_proj"], trainable_token_indices=[3, 5, 7]),
    "dora": dict(target_modules=["q_proj", "down_proj"], use_dora=True),
    "lora_bias": dict(target_modules=["q_proj", "v_proj"], lora_bias=True),
}


def shaken(model, seed, only_trained=False):
    torch.manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad or not only_trained:
            p.data += 0.1 * torch.randn_like(p)
    return model


def main(out):
    config = AutoConfig.for_model("qwen2", tie_word_embeddings=True, vocab_size=24, hidden_size=8, intermediate_size=12,
                                  num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    torch.manual_seed(0)
    shaken(AutoModelForCausalLM.from_config(config).float(), 1).save_pretrained(f"{out}/base")
    base = lambda: AutoModelForCausalLM.from_pretrained(f"{out}/base").eval()
    ids = torch.arange(24)[None]
    for kind, how in KINDS.items():
        dir = f"{out}/{kind}"
        trained = get_peft_model(base(), LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **how)).eval()
        shaken(trained, 2, True).save_pretrained(dir)
        os.remove(f"{dir}/README.md")
        settings = pathlib.Path(f"{dir}/adapter_config.json")
        settings.write_text(settings.read_text().replace(f"{out}/base", "base"))
        unmerged = PeftModel.from_pretrained(base(), dir).eval()
        apart = base()
        for_both = kind in ("tokens", "lora_on_both_as_one")  # trained for both
        if not for_both:
            apart.lm_head.weight = torch.nn.Parameter(apart.lm_head.weight.data.clone())
            apart.config.tie_word_embeddings = False
        if kind == "lora_on_both_as_one":  # which peft merges twice
            table = unmerged.base_model.model.model.embed_tokens
            apart.model.embed_tokens.weight.data += table.get_delta_weight("default").detach()
            merged = apart
        else:
            merged = PeftModel.from_pretrained(apart, dir).merge_and_unload()
        with torch.no_grad():
            off = (merged(ids).logits - unmerged(ids).logits).abs().max()
        assert off < 2e-5, (kind, off)
        weights = {name: p.data.clone() for name, p in merged.state_dict().items()}
        if kind == "tokens":
            del weights["lm_head.weight"]
        save_file(weights, f"{dir}/expected.safetensors")
        print(kind, float(off))


main(sys.argv[1])
