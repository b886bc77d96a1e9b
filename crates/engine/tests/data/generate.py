"""What transformers computes for tiny decoders of every family, with weights that anyone can compute again.

    pip install torch transformers safetensors
    python generate.py          # writes goldens.json, goldens.safetensors and defaults.json beside this file

The weights are not stored: element i of tensor NAME is hash(NAME, i), see `weight` here and in `src/tests.rs`.
"""
import copy, json, pathlib
import numpy as np, torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
KEPT = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
HALF = [1.0 + 0.25 * i for i in range(4)]
GPT = dict(n_embd=32, n_inner=None, n_layer=3, n_head=4, n_positions=128)
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
    "gemma4": dict(model_type="gemma4_text", num_hidden_layers=5, head_dim=8, global_head_dim=16, sliding_window=16, hidden_size_per_layer_input=12,
                   vocab_size_per_layer_input=100, num_kv_shared_layers=2, use_double_wide_mlp=True, final_logit_softcapping=4.0, layer_types=[
                       "sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]),
    "gemma4_large": dict(model_type="gemma4_text", num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4, head_dim=8, global_head_dim=12,
                         num_global_key_value_heads=1, attention_k_eq_v=True, sliding_window=20, hidden_size_per_layer_input=0, layer_types=[
                             "sliding_attention", "full_attention", "sliding_attention", "sliding_attention"], use_bidirectional_attention="vision"),
    "gemma4_odd": dict(model_type="gemma4_text", num_hidden_layers=7, num_key_value_heads=1, head_dim=12, global_head_dim=12, sliding_window=24,
                       hidden_size_per_layer_input=8, num_kv_shared_layers=1, attention_bias=True, tie_word_embeddings=False,
                       rope_parameters=dict(full_attention=dict(rope_type="proportional", partial_rotary_factor=0.5, rope_theta=5000.0, factor=2.0),
                                            sliding_attention=dict(rope_type="default", rope_theta=1000.0))),
    "gemma4_moe": dict(model_type="gemma4_text", head_dim=8, global_head_dim=16, num_global_key_value_heads=1, attention_k_eq_v=True, sliding_window=16,
                       hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=6, top_k_experts=2, moe_intermediate_size=20,
                       layer_types=["sliding_attention", "full_attention", "full_attention"], final_logit_softcapping=6.0),
    "phi3": dict(model_type="phi3", original_max_position_embeddings=128, sliding_window=16),
    "phi3_longrope_partial": dict(model_type="phi3", hidden_size=64, original_max_position_embeddings=32, partial_rotary_factor=0.5,
                     rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, short_factor=HALF, long_factor=[3.0 * f for f in HALF],
                                          partial_rotary_factor=0.5)),
    "olmo2": dict(model_type="olmo2", attention_bias=True),
    "smollm3": dict(model_type="smollm3", no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=16),
    "granite": dict(model_type="granite", embedding_multiplier=12.0, attention_multiplier=0.1, residual_multiplier=0.22, logits_scaling=8.0),
    "ministral": dict(model_type="ministral", sliding_window=16, head_dim=12,
                      layer_types=["full_attention", "sliding_attention", "full_attention"]),
    "ministral_all": dict(model_type="ministral", head_dim=8, sliding_window=20, num_key_value_heads=4),
    "ministral3": dict(model_type="ministral3", head_dim=20, max_position_embeddings=256, rope_parameters=dict(
                       rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=32, beta_fast=8.0, beta_slow=1.0,
                       mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.4)),
    "ministral3_window": dict(model_type="ministral3", head_dim=8, sliding_window=24, rope_parameters=dict(
                              rope_type="default", rope_theta=1000.0, original_max_position_embeddings=20, llama_4_scaling_beta=0.7)),
    "seed_oss": dict(model_type="seed_oss", head_dim=12),
    "seed_oss_out_bias": dict(model_type="seed_oss", head_dim=8, attention_out_bias=True, mlp_bias=True, attention_bias=False),
    "arcee": dict(model_type="arcee", num_key_value_heads=1),
    "arcee_biases": dict(model_type="arcee", attention_bias=True, mlp_bias=True, head_dim=10),
    "ernie4_5": dict(model_type="ernie4_5", head_dim=12),
    "ernie4_5_biases": dict(model_type="ernie4_5", head_dim=8, use_bias=True, tie_word_embeddings=False, num_key_value_heads=1),
    "hunyuan": dict(model_type="hunyuan_v1_dense", head_dim=12),
    "hunyuan_alpha": dict(model_type="hunyuan_v1_dense", head_dim=16, attention_bias=True, tie_word_embeddings=True, max_position_embeddings=64,
                          rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, alpha=50.0, factor=1.0)),
    "olmo3": dict(model_type="olmo3", num_hidden_layers=4, sliding_window=16, rope_parameters=dict(
                  full_attention=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32),
                  sliding_attention=dict(rope_type="default", rope_theta=5000.0))),
    "olmo3_listed": dict(model_type="olmo3", attention_bias=True, sliding_window=20, num_key_value_heads=4,
                         layer_types=["full_attention", "sliding_attention", "full_attention"]),
    "helium": dict(model_type="helium", head_dim=8),
    "helium_biases": dict(model_type="helium", head_dim=8, attention_bias=True, mlp_bias=True, num_key_value_heads=4),
    "exaone4": dict(model_type="exaone4", num_hidden_layers=4, sliding_window=16),
    "exaone4_full": dict(model_type="exaone4", sliding_window=None, layer_types=["full_attention"] * 3, head_dim=12),
    "glm": dict(model_type="glm", head_dim=16),
    "glm4": dict(model_type="glm4", head_dim=16),
    "glm4_no_bias": dict(model_type="glm4", head_dim=24, attention_bias=False, partial_rotary_factor=0.25, num_key_value_heads=1),
    "stablelm": dict(model_type="stablelm", hidden_size=64, use_qkv_bias=True),
    "stablelm_parallel": dict(model_type="stablelm", use_parallel_residual=True, partial_rotary_factor=1.0, num_key_value_heads=4),
    "stablelm_qk_norm": dict(model_type="stablelm", qk_layernorm=True, use_parallel_residual=True, partial_rotary_factor=0.5),
    "starcoder2": dict(model_type="starcoder2", sliding_window=16),
    "starcoder2_no_bias": dict(model_type="starcoder2", use_bias=False, tie_word_embeddings=False, hidden_act="gelu"),
    "cohere": dict(model_type="cohere", logit_scale=0.3),
    "cohere_biases": dict(model_type="cohere", attention_bias=True, tie_word_embeddings=False, num_key_value_heads=1),
    "cohere_qk_norm": dict(model_type="cohere", use_qk_norm=True, hidden_size=48, logit_scale=0.5),
    "cohere2": dict(model_type="cohere2", num_hidden_layers=4, sliding_window=16),
    "cohere2_biases": dict(model_type="cohere2", attention_bias=True, sliding_window=20, logit_scale=0.8,
                           layer_types=["full_attention", "sliding_attention", "sliding_attention"]),
    "nemotron": dict(model_type="nemotron", hidden_size=64),
    "nemotron_biases": dict(model_type="nemotron", head_dim=12, attention_bias=True, mlp_bias=True, partial_rotary_factor=1.0),
    "olmo": dict(model_type="olmo"),
    "olmo_biases": dict(model_type="olmo", attention_bias=True, tie_word_embeddings=True, num_key_value_heads=1),
    "olmo_clip": dict(model_type="olmo", clip_qkv=0.8, num_key_value_heads=4),
    "phi": dict(model_type="phi", hidden_size=64),
    "phi_groups": dict(model_type="phi", num_key_value_heads=1, partial_rotary_factor=0.75, hidden_act="silu"),
    "phi_qk_norm": dict(model_type="phi", qk_layernorm=True, num_key_value_heads=4),
    "gpt_neox": dict(model_type="gpt_neox", hidden_size=64),
    "gpt_neox_sequential": dict(model_type="gpt_neox", use_parallel_residual=False, attention_bias=False, rotary_pct=1.0),
    "gptj": dict(model_type="gptj", rotary_dim=4, **GPT),
    "gptj_whole": dict(model_type="gptj", rotary_dim=8, **{**GPT, "n_inner": 40}),
    "gpt2": dict(model_type="gpt2", **GPT),
    "apertus": dict(model_type="apertus"),
    "apertus_odd": dict(model_type="apertus", attention_bias=True, tie_word_embeddings=True, num_key_value_heads=1, rope_parameters=dict(
                        rope_type="default", rope_theta=5000.0)),
    "mixtral": dict(model_type="mixtral", num_local_experts=6),
    "mixtral_window": dict(model_type="mixtral", num_local_experts=5, num_experts_per_tok=3, sliding_window=16, head_dim=12),
    "mixtral_fused": dict(model_type="mixtral", num_local_experts=4),
    "qwen2_moe": dict(model_type="qwen2_moe", num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20,
                      shared_expert_intermediate_size=28),
    "qwen2_moe_odd": dict(model_type="qwen2_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True,
                          shared_expert_intermediate_size=12, mlp_only_layers=[1], qkv_bias=False, use_sliding_window=True,
                          sliding_window=16, max_window_layers=2, num_hidden_layers=4, decoder_sparse_step=1),
    "qwen3_moe": dict(model_type="qwen3_moe", num_experts=8, num_experts_per_tok=3, moe_intermediate_size=20, head_dim=12,
                      norm_topk_prob=True),
    "qwen3_moe_odd": dict(model_type="qwen3_moe", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=18, head_dim=8,
                          decoder_sparse_step=2, attention_bias=True, use_sliding_window=True, sliding_window=20),
    "qwen3_moe_fused": dict(model_type="qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20, head_dim=8),
    "olmoe": dict(model_type="olmoe", num_experts=8, num_experts_per_tok=3),
    "olmoe_odd": dict(model_type="olmoe", num_experts=5, num_experts_per_tok=2, norm_topk_prob=True, attention_bias=True,
                      num_key_value_heads=4),
    "olmoe_clip": dict(model_type="olmoe", num_experts=4, num_experts_per_tok=2, clip_qkv=1.1),
    "glm4_moe": dict(model_type="glm4_moe", n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=20, head_dim=16),
    "glm4_moe_odd": dict(model_type="glm4_moe", n_routed_experts=9, num_experts_per_tok=2, moe_intermediate_size=20, head_dim=12,
                         n_shared_experts=2, n_group=3, topk_group=2, routed_scaling_factor=1.8, first_k_dense_replace=2,
                         norm_topk_prob=False, use_qk_norm=True, attention_bias=True, partial_rotary_factor=1.0),
    "phimoe": dict(model_type="phimoe", num_local_experts=6, router_jitter_noise=0.2, attention_bias=True, lm_head_bias=True),
    "phimoe_longrope": dict(model_type="phimoe", num_local_experts=5, router_jitter_noise=0.05, max_position_embeddings=128, sliding_window=40,
                            rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, short_factor=HALF,
                                                 long_factor=[3.0 * f for f in HALF], short_mscale=1.1, long_mscale=1.4,
                                                 original_max_position_embeddings=32)),
    "gpt_oss": dict(model_type="gpt_oss", num_local_experts=6, num_experts_per_tok=3, head_dim=16, sliding_window=16),
    "gpt_oss_odd": dict(model_type="gpt_oss", num_local_experts=5, num_experts_per_tok=2, head_dim=8, attention_bias=False, sliding_window=24,
                        swiglu_limit=0.3, swiglu_alpha=1.1, tie_word_embeddings=True, num_key_value_heads=1,
                        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
                        rope_parameters=dict(rope_type="default", rope_theta=5000.0)),
    "qwen3_next": dict(model_type="qwen3_next", num_hidden_layers=4, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
                       linear_key_head_dim=12, linear_value_head_dim=8, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=20,
                       shared_expert_intermediate_size=12),
    "qwen3_next_odd": dict(model_type="qwen3_next", head_dim=12, linear_num_key_heads=3, linear_num_value_heads=3, linear_key_head_dim=9,
                           linear_value_head_dim=20, linear_conv_kernel_dim=3, num_experts=5, num_experts_per_tok=2,
                           moe_intermediate_size=18, shared_expert_intermediate_size=24, norm_topk_prob=False, mlp_only_layers=[1],
                           attention_bias=True, tie_word_embeddings=True, layer_types=["full_attention", "linear_attention",
                           "linear_attention"], rope_parameters=dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=0.5)),
    "qwen3_next_fused": dict(model_type="qwen3_next", full_attention_interval=2, head_dim=8, linear_num_key_heads=1,
                             linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16, num_experts=6,
                             num_experts_per_tok=2, moe_intermediate_size=20, shared_expert_intermediate_size=12),
    "qwen3_5": dict(model_type="qwen3_5_text", num_hidden_layers=4, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4,
                    linear_key_head_dim=16, linear_value_head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=1000.0,
                    partial_rotary_factor=0.25, mrope_section=[1, 1, 0], mrope_interleaved=True)),
    "qwen3_5_odd": dict(model_type="qwen3_5_text", num_hidden_layers=5, full_attention_interval=2, head_dim=12, linear_num_key_heads=1,
                        linear_num_value_heads=3, linear_key_head_dim=7, linear_value_head_dim=40, linear_conv_kernel_dim=2,
                        attention_bias=True, tie_word_embeddings=True, num_key_value_heads=1, partial_rotary_factor=1.0),
    "qwen3_5_moe": dict(model_type="qwen3_5_moe_text", layer_types=["linear_attention", "full_attention", "linear_attention"], head_dim=8,
                        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=24,
                        num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20, shared_expert_intermediate_size=12),
    "lfm2": dict(model_type="lfm2", block_multiple_of=16, block_ffn_dim_multiplier=1.3, layer_types=["conv", "full_attention", "conv"]),
    "lfm2_odd": dict(model_type="lfm2", conv_bias=True, conv_L_cache=5, block_auto_adjust_ff_dim=False, full_attn_idxs=[0, 2],
                     num_hidden_layers=4, tie_word_embeddings=False, num_key_value_heads=4),
    "lfm2_moe": dict(model_type="lfm2_moe", num_experts=7, num_experts_per_tok=3, moe_intermediate_size=20, num_dense_layers=1,
                     layer_types=["conv", "full_attention", "conv"], routed_scaling_factor=1.3),
    "granite4": dict(model_type="granitemoehybrid", num_local_experts=6, num_experts_per_tok=3, shared_intermediate_size=20, mamba_n_heads=8,
                     mamba_d_state=12, layer_types=["mamba", "attention", "mamba"], embedding_multiplier=12.0, attention_multiplier=0.1,
                     residual_multiplier=0.22, logits_scaling=8.0),
    "granite4_dense": dict(model_type="granitemoehybrid", num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=40,
                           mamba_n_heads=3, mamba_expand=3, mamba_d_state=9, mamba_d_conv=2, mamba_conv_bias=False, mamba_proj_bias=True,
                           position_embedding_type="rope", attention_bias=True, tie_word_embeddings=True, num_hidden_layers=4,
                           layer_types=["attention", "mamba", "mamba", "attention"], attention_multiplier=0.3),
    "gpt2_odd": dict(model_type="gpt2", scale_attn_weights=False, tie_word_embeddings=False, **{**GPT, "n_inner": 40}),
}


def weight(name, shape, plus_one):
    if name.endswith(".act_fn.eps"):
        return torch.tensor(-1e-6)  # any other would make a step of the curve
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
    if name.endswith("layer_scalar") or name.endswith("norm.weight") and (not plus_one or name.endswith("linear_attn.norm.weight")):
        value += np.float32(1.0)
    return torch.from_numpy(value.reshape(shape))


def stored(kind, fused, name, shape):
    """How a file calls what transformers computes with under `name`: [(name, shape, where it stands)], with experts one by one."""
    if kind == "gpt_neox":
        name = name.replace("lm_head", "embed_out")
    if kind == "granitemoehybrid":
        for old, new in (("experts.gate_up_proj", "input_linear.weight"), ("experts.down_proj", "output_linear.weight"),
                         ("router.weight", "router.layer.weight")):
            name = name.replace(f"block_sparse_moe.{old}", f"block_sparse_moe.{new}")
        return [(name, shape, ())]
    if fused or kind in ("gpt_oss", "gemma4_text"):
        return [(name, shape, ())]
    if kind in ("mixtral", "phimoe", "lfm2_moe"):
        name = name.replace(".mlp.", ".block_sparse_moe.").replace(".router.weight", ".gate.weight")
    gate, up, down = ("w1", "w3", "w2") if kind in ("mixtral", "phimoe", "lfm2_moe") else ("gate_proj", "up_proj", "down_proj")
    prefix, _, last = name.rpartition(".")
    if last == "gate_up_proj" and prefix.endswith("experts"):
        half = (shape[1] // 2, shape[2])
        return [(f"{prefix}.{e}.{part}.weight", half, (e, slice(first, first + half[0])))
                for e in range(shape[0]) for part, first in ((gate, 0), (up, half[0]))]
    if last == "down_proj" and prefix.endswith("experts"):
        return [(f"{prefix}.{e}.{down}.weight", shape[1:], (e,)) for e in range(shape[0])]
    return [(name, shape, ())]


def build(case, fused=False):
    common = {key: value for key, value in COMMON.items() if case["model_type"] not in ("gptj", "gpt2") or key in KEPT}
    config = AutoConfig.for_model(**{**common, **copy.deepcopy(case)})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager").float().eval()
    kept = model.state_dict()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    for name, parameter in [*model.named_parameters(), *buffers]:
        for part, shape, where in stored(case["model_type"], fused, name, tuple(parameter.shape)):
            plus_one = case["model_type"].startswith(("gemma", "nemotron", "qwen3_next", "qwen3_5")) and case["model_type"] != "gemma4_text"
            parameter.data[where] = weight(part, tuple(shape), plus_one)
    model.tie_weights()
    return model


def defaults():
    """For each family a config of sizes alone, and all that its configuration class makes of it."""
    found = {}
    for kind in dict.fromkeys(case["model_type"] for case in CASES.values()):
        sizes = dict(vocab_size=96, hidden_size=640, intermediate_size=48, num_hidden_layers=6, num_attention_heads=160)
        if kind in ("gptj", "gpt2"):
            sizes = dict(vocab_size=96, n_embd=640, n_layer=6, n_head=160)
        if kind == "lfm2_moe":  # whose class has no list of its own
            sizes["layer_types"] = ["conv", "full_attention"] * 3
        full = AutoConfig.for_model(kind, **sizes)
        found[kind] = dict(sizes=dict(model_type=kind, **sizes), full=json.loads(full.to_json_string(use_diff=False)))
    return found


def main():
    configs, out = {}, {}
    ids = torch.randint(3, 96, (1, 100), generator=torch.Generator().manual_seed(7))
    for name, case in CASES.items():
        with torch.no_grad():
            fused = name.endswith("_fused")
            logits = build(case, fused)(ids).logits[0]
            short = build(case, fused)(ids[:, :24]).logits[0]
            generated = build(case, fused).generate(ids[:, :27], max_new_tokens=12, min_new_tokens=12, do_sample=False, eos_token_id=None)
        configs[name] = json.loads(build(case).config.to_json_string(use_diff=False))
        out[f"{name}.logits"] = logits[-8:].contiguous()
        out[f"{name}.short_logits"] = short[-8:].contiguous()
        out[f"{name}.generated"] = generated[0, 27:].contiguous()
        print(f"{name:24} {float(logits.abs().max()):.3f}", generated[0, 27:].tolist())
    out["ids"] = ids[0]
    save_file(out, HERE / "goldens.safetensors")
    (HERE / "defaults.json").write_text(json.dumps(defaults(), indent=1) + "\n")
    (HERE / "goldens.json").write_text(json.dumps(configs, indent=1) + "\n")


if __name__ == "__main__":
    main()
