"""What transformers computes for tiny decoders of every family, with weights that anyone can compute again.

    pip install torch transformers safetensors
    python generate.py          # writes goldens.json and goldens.safetensors beside this file

The weights are not stored: element i of tensor NAME is hash(NAME, i), see `weight` here and in `src/tests.rs`.
"""
import copy, json, pathlib
import numpy as np, torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
HALF = [1.0 + 0.25 * i for i in range(4)]
CASES = {
    "llama": dict(model_type="llama"),
    "llama_tied_mqa": dict(model_type="llama", tie_word_embeddings=True, num_attention_heads=8, num_key_value_heads=1),
    "llama_biases_head_dim": dict(model_type="llama", head_dim=20, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "llama3_scaling": dict(model_type="llama", rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, factor=8.0,
                           low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)),
    "linear": dict(model_type="llama", rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0)),
    "dynamic": dict(model_type="llama", max_position_embeddings=32,
                    rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0)),
    "yarn": dict(model_type="llama", rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                 original_max_position_embeddings=32)),
    "yarn_mscale": dict(model_type="qwen2", rope_parameters=dict(rope_type="yarn", rope_theta=1000.0, factor=4.0, mscale=0.7,
                        mscale_all_dim=0.3, beta_fast=8, beta_slow=2, truncate=False, original_max_position_embeddings=32)),
    "mistral_window": dict(model_type="mistral", sliding_window=16),
    "mistral_wide_window": dict(model_type="mistral", sliding_window=500, num_key_value_heads=4),
    "qwen2_windows_from_1": dict(model_type="qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=1),
    "qwen2_seven_heads": dict(model_type="qwen2", hidden_size=56, num_attention_heads=7, num_key_value_heads=1, tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=12, attention_bias=True),
    "gemma": dict(model_type="gemma", head_dim=16),
    "gemma2": dict(model_type="gemma2", head_dim=16, sliding_window=16, query_pre_attn_scalar=24, final_logit_softcapping=5.0,
                   attn_logit_softcapping=2.0),
    "gemma3": dict(model_type="gemma3_text", head_dim=16, sliding_window=16, query_pre_attn_scalar=24, final_logit_softcapping=4.0,
                   layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                   rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
                                        sliding_attention=dict(rope_type="default", rope_theta=10000.0))),
    "phi3": dict(model_type="phi3", original_max_position_embeddings=128, sliding_window=16),
    "phi3_longrope_partial": dict(model_type="phi3", hidden_size=64, original_max_position_embeddings=32, partial_rotary_factor=0.5,
                     rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, short_factor=HALF, long_factor=[3.0 * f for f in HALF],
                                          partial_rotary_factor=0.5)),
    "olmo2": dict(model_type="olmo2", attention_bias=True),
    "smollm3": dict(model_type="smollm3", no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=16),
    "granite": dict(model_type="granite", embedding_multiplier=12.0, attention_multiplier=0.1, residual_multiplier=0.22, logits_scaling=8.0),
}


def weight(name, shape, gemma):
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) * 2654435761 + seed & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x2C1B3C6D & 0xFFFFFFFF
    x ^= x >> 12
    x = x * 0x297A2D39 & 0xFFFFFFFF
    x ^= x >> 15
    value = ((x >> 8).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)) * np.float32(0.5)
    if name.endswith("norm.weight") and not gemma:
        value += np.float32(1.0)
    return torch.from_numpy(value.reshape(shape))


def build(case):
    config = AutoConfig.for_model(**{**COMMON, **copy.deepcopy(case)})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for name, parameter in model.named_parameters():
        parameter.data = weight(name, tuple(parameter.shape), "gemma" in case["model_type"])
    model.tie_weights()
    return model


def main():
    configs, out = {}, {}
    ids = torch.randint(3, 96, (1, 100), generator=torch.Generator().manual_seed(7))
    for name, case in CASES.items():
        with torch.no_grad():
            logits = build(case)(ids).logits[0]
            short = build(case)(ids[:, :24]).logits[0]
            generated = build(case).generate(ids[:, :27], max_new_tokens=12, min_new_tokens=12, do_sample=False, eos_token_id=None)
        configs[name] = json.loads(build(case).config.to_json_string(use_diff=False))
        out[f"{name}.logits"] = logits[-8:].contiguous()
        out[f"{name}.short_logits"] = short[-8:].contiguous()
        out[f"{name}.generated"] = generated[0, 27:].contiguous()
        print(f"{name:24} {float(logits.abs().max()):.3f}", generated[0, 27:].tolist())
    out["ids"] = ids[0]
    save_file(out, HERE / "goldens.safetensors")
    (HERE / "goldens.json").write_text(json.dumps(configs, indent=1) + "\n")


if __name__ == "__main__":
    main()
