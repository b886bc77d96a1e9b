"""What transformers computes for a text with tiny models that also see, whose weights anyone can compute again.

    pip install torch transformers safetensors
    python wrappers.py          # writes wrappers.json and wrappers.safetensors beside this file

Weights are a hash of the tensor's name in the file and its index, as in generate.py. Every case is loaded from a file, with the
names of today's files or of earlier ones, and asked for the logits of a text of 60 tokens and for eight greedy ones after 27.
wrappers.json has each config as it stood in the file, and all the file's tensors with their shapes.
"""
import copy, json, pathlib, tempfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText
from generate import HERE, weight

TEXT = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2)
SEEING = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
CLIP, SIGLIP, PIXTRAL = (dict(model_type=kind, **SEEING) for kind in ("clip_vision_model", "siglip_vision_model", "pixtral"))
QWEN2 = dict(depth=1, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, out_hidden_size=32, fullatt_block_indexes=[0])
QWEN3 = dict(depth=1, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, out_hidden_size=32, deepstack_visual_indexes=[0],
             num_position_embeddings=16)
QWEN3_5 = {key: value for key, value in QWEN3.items() if key != "deepstack_visual_indexes"}
GEMMA4 = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
              patch_size=4, position_embedding_size=16)
MROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1])
# Today's names to those that transformers 4.52 to 4.57 saved.
BETWEEN = [("language_model.lm_head.", "lm_head."), ("language_model.model.", "model.language_model."), ("vision_tower.", "model.vision_tower."),
           ("multi_modal_projector.", "model.multi_modal_projector."), ("image_newline", "model.image_newline")]
QWEN_BETWEEN = [("visual.", "model.visual."), ("model.", "model.language_model.")]
CASES = {
    "gemma3": dict(model_type="gemma3", mm_tokens_per_image=4, vision_config=SIGLIP, text_config=dict(
        model_type="gemma3_text", head_dim=16, sliding_window=16, query_pre_attn_scalar=24, layer_types=[
            "sliding_attention", "full_attention", "sliding_attention"], **TEXT)),
    "gemma3_between": dict(model_type="gemma3", mm_tokens_per_image=4, vision_config=SIGLIP, text_config=dict(
        model_type="gemma3_text", head_dim=8, sliding_window=20, query_pre_attn_scalar=16, final_logit_softcapping=4.0, **TEXT)),
    "gemma4": dict(model_type="gemma4", vision_config=GEMMA4, audio_config=None, text_config=dict(
        model_type="gemma4_text", head_dim=8, global_head_dim=12, sliding_window=16, hidden_size_per_layer_input=8, vocab_size_per_layer_input=96,
        num_kv_shared_layers=2, final_logit_softcapping=3.0, use_double_wide_mlp=True, layer_types=[
            "sliding_attention", "full_attention", "sliding_attention", "full_attention"], **{**TEXT, "num_hidden_layers": 4})),
    "gemma4_large": dict(model_type="gemma4", vision_config=GEMMA4, audio_config=None, tie_word_embeddings=True, text_config=dict(
        model_type="gemma4_text", head_dim=12, global_head_dim=16, num_global_key_value_heads=1, attention_k_eq_v=True, sliding_window=20,
        hidden_size_per_layer_input=0, use_bidirectional_attention="vision", **TEXT)),
    "mistral3": dict(model_type="mistral3", vision_config=PIXTRAL, tie_word_embeddings=False, text_config=dict(
        model_type="mistral", head_dim=12, sliding_window=None, **TEXT)),
    "mistral3_ministral3": dict(model_type="mistral3", vision_config=PIXTRAL, text_config=dict(
        model_type="ministral3", head_dim=8, rope_parameters=dict(
            rope_type="yarn", rope_theta=10000.0, factor=8.0, original_max_position_embeddings=16, beta_fast=8.0, beta_slow=1.0, mscale=1.0,
            mscale_all_dim=1.0, llama_4_scaling_beta=0.4), **TEXT)),
    "qwen2_vl": dict(model_type="qwen2_vl", vision_config=dict(depth=1, embed_dim=16, hidden_size=32, num_heads=2, patch_size=4),
                     text_config=dict(rope_parameters=MROPE, **TEXT)),
    "qwen2_5_vl": dict(model_type="qwen2_5_vl", vision_config=QWEN2, text_config=dict(rope_parameters=MROPE, **TEXT)),
    "qwen2_5_vl_between_tied": dict(model_type="qwen2_5_vl", vision_config=QWEN2, tie_word_embeddings=True, text_config=dict(
        rope_parameters=dict(MROPE, rope_theta=5000.0), **{**TEXT, "num_key_value_heads": 1})),
    "qwen3_vl": dict(model_type="qwen3_vl", vision_config=QWEN3, text_config=dict(
        head_dim=12, rope_parameters=dict(MROPE, mrope_section=[2, 2, 2], mrope_interleaved=True), **TEXT)),
    "qwen3_vl_moe": dict(model_type="qwen3_vl_moe", vision_config=QWEN3, tie_word_embeddings=False, text_config=dict(
        head_dim=8, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=20, tie_word_embeddings=False,
        rope_parameters=dict(MROPE, mrope_section=[2, 1, 1], mrope_interleaved=True), **TEXT)),
    "qwen3_vl_moe_by_column": dict(model_type="qwen3_vl_moe", vision_config=QWEN3, tie_word_embeddings=False, text_config=dict(
        head_dim=12, num_experts=4, num_experts_per_tok=3, moe_intermediate_size=12, mlp_only_layers=[1], tie_word_embeddings=False,
        attention_bias=True, rope_parameters=dict(MROPE, mrope_section=[2, 2, 2], mrope_interleaved=True), **TEXT)),
    "qwen3_5": dict(model_type="qwen3_5", vision_config=QWEN3_5, text_config=dict(
        head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=12, linear_value_head_dim=8,
        rope_parameters=dict(MROPE, mrope_section=[1, 1, 0], mrope_interleaved=True, partial_rotary_factor=0.25),
        layer_types=["linear_attention", "full_attention", "linear_attention"], **TEXT)),
    "qwen3_5_tied": dict(model_type="qwen3_5", vision_config=QWEN3_5, tie_word_embeddings=True, text_config=dict(
        head_dim=12, linear_num_key_heads=1, linear_num_value_heads=1, linear_key_head_dim=8, linear_value_head_dim=20,
        full_attention_interval=3, tie_word_embeddings=True, **TEXT)),
    "qwen3_5_moe": dict(model_type="qwen3_5_moe", vision_config=QWEN3_5, text_config=dict(
        head_dim=8, linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=16, num_experts=5,
        num_experts_per_tok=2, moe_intermediate_size=20, shared_expert_intermediate_size=12, full_attention_interval=2, **TEXT)),
    "lfm2_vl": dict(model_type="lfm2_vl", image_token_id=95, projector_hidden_size=24, vision_config=dict(
        model_type="siglip2_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_patches=16,
        patch_size=4), text_config=dict(model_type="lfm2", block_multiple_of=16, layer_types=["conv", "full_attention", "conv"], **TEXT)),
    "llava": dict(model_type="llava", vision_config=dict(CLIP, projection_dim=16), image_token_index=95, text_config=dict(model_type="llama", **TEXT)),
    "llava_between": dict(model_type="llava", vision_config=dict(CLIP, projection_dim=16), image_token_index=95, text_config=dict(
        model_type="qwen3", head_dim=8, **TEXT)),
    "llava_next": dict(model_type="llava_next", vision_config=dict(CLIP, projection_dim=16), image_token_index=95, text_config=dict(
        model_type="mistral", sliding_window=16, **TEXT)),
    "llava_onevision": dict(model_type="llava_onevision", vision_config=SIGLIP, text_config=dict(model_type="qwen2", **TEXT)),
    "internvl": dict(model_type="internvl", tie_word_embeddings=False, text_config=dict(model_type="qwen3", head_dim=12, **TEXT), vision_config=dict(
        SEEING, image_size=[8, 8], patch_size=[4, 4])),
    "aya_vision": dict(model_type="aya_vision", vision_config=SIGLIP, text_config=dict(model_type="cohere2", sliding_window=16, **TEXT)),
    "smolvlm": dict(model_type="smolvlm", vision_config=dict(SEEING, model_type="smolvlm_vision"), image_token_id=95, text_config=dict(
        model_type="llama", **TEXT)),
    "idefics3": dict(model_type="idefics3", vision_config=dict(SEEING, model_type="idefics3_vision"), image_token_id=95, text_config=dict(
        model_type="llama", head_dim=12, **TEXT)),
}


def renamed(name, pairs):
    for today, between in pairs:
        if name.startswith(today):
            return between + name[len(today):]
    return name


def in_file(name, tensors):
    """The tensors of a file that transformers saved, called and turned as in a file of the case's kind."""
    pairs = (QWEN_BETWEEN if "qwen" in name else BETWEEN) if "between" in name else []
    # Qwen3-VL's mixture was published with its experts' matrices by column.
    turned = name.endswith("by_column")
    return {renamed(old, pairs): t.transpose(1, 2).contiguous() if turned and ".experts." in old else t for old, t in tensors.items()}


def load(name, case):
    """The model, from a file of hashed weights; its config and the file's tensors."""
    with tempfile.TemporaryDirectory() as folder:
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**copy.deepcopy(case)))
        model.save_pretrained(folder)
        file = pathlib.Path(folder) / "model.safetensors"
        plus_one = case["model_type"] in ("gemma3", "qwen3_5", "qwen3_5_moe")
        tensors = in_file(name, load_file(file))
        tensors = {new: weight(new, tuple(t.shape), plus_one).to(t.dtype).contiguous() for new, t in tensors.items()}
        save_file(tensors, file, metadata={"format": "pt"})
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        loaded, info = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], (name, info)
        return loaded.eval(), config, {name: list(t.shape) for name, t in tensors.items()}


def main():
    known, out = {}, {}
    ids = torch.randint(3, 94, (1, 60), generator=torch.Generator().manual_seed(11))
    out["ids"] = ids[0]
    for name, case in CASES.items():
        model, config, tensors = load(name, case)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            generated = model.generate(input_ids=ids[:, :27], attention_mask=torch.ones_like(ids[:, :27]), max_new_tokens=8, min_new_tokens=8,
                                       do_sample=False, eos_token_id=None)
        out[f"{name}.logits"] = logits[-8:].contiguous()
        out[f"{name}.generated"] = generated[0, 27:].contiguous()
        known[name] = dict(config=config, tensors=tensors)
        print(f"{name:26} {float(logits.abs().max()):.3f}", generated[0, 27:].tolist())
    save_file(out, HERE / "wrappers.safetensors")
    (HERE / "wrappers.json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
