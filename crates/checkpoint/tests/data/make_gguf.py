"""Makes gguf/: two tiny models as llama.cpp would store them, and what transformers reads from them.

kinds.gguf   Llama, one layer, a quantisation for every matrix; rope factors of Llama 3
plain.gguf   Qwen2 with biases, F16 and F32, a SentencePiece vocabulary
*.safetensors, texts.json   transformers' weights (f32) and token ids
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

out = Path(sys.argv[1])
rng = np.random.default_rng(0)


def blocks(kind, rows, columns):
    """Random bytes with sane scales: every byte string is a valid block, once its f16 scales are small."""
    per_block, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (rows * columns // per_block, size), dtype=np.uint8)
    scales = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108],
              Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}[kind]
    for at in scales:
        data[:, at:at + 2] = rng.normal(0, 0.01, (len(data), 1)).astype(np.float16).view(np.uint8)
    return data.reshape(rows, -1)


def common(w, layers=1, **numbers):
    w.add_block_count(layers)
    w.add_context_length(512)
    w.add_embedding_length(numbers["hidden"])
    w.add_feed_forward_length(numbers["ffn"])
    w.add_head_count(numbers["heads"])
    w.add_head_count_kv(numbers["kv"])
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(numbers["theta"])
    w.add_rope_dimension_count(8)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def norm(n):
    return rng.normal(1, 0.1, n).astype(np.float32)


def half(*shape):
    return rng.normal(0, 0.1, shape).astype(np.float16)


def load(name):
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file=name, dtype=torch.float32)
    tied = model.config.tie_word_embeddings
    state = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(state, out / name.replace(".gguf", ".safetensors"), metadata={"format": "pt"})


def kinds():
    w = gguf.GGUFWriter(out / "kinds.gguf", "llama")
    common(w, hidden=256, ffn=32, heads=2, kv=1, theta=500000.0)
    w.add_vocab_size(8)
    w.add_tokenizer_model("gpt2")
    w.add_token_list(list("abcdefgh"))
    packed = {"token_embd": (Q.Q6_K, 8), "blk.0.attn_q": (Q.Q4_K, 16), "blk.0.attn_k": (Q.Q5_K, 8), "blk.0.attn_v": (Q.Q2_K, 8),
              "blk.0.ffn_gate": (Q.Q3_K, 32), "blk.0.ffn_up": (Q.Q8_0, 32), "output": (Q.Q4_1, 8)}
    for name, (kind, rows) in packed.items():
        w.add_tensor(name + ".weight", blocks(kind, rows, 256), raw_dtype=kind)
    w.add_tensor("blk.0.ffn_down.weight", blocks(Q.Q5_1, 256, 32), raw_dtype=Q.Q5_1)
    w.add_tensor("blk.0.attn_output.weight", half(256, 16))
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]:
        w.add_tensor(name + ".weight", norm(256))
    # Llama 3.1's factors for theta 500000, head_dim 8: 8 where the wavelength passes 8192, a blend from 2048 on
    waves = 2 * np.pi * 500000.0 ** (np.arange(0, 8, 2) / 8)
    smooth = (8192 / waves - 1) / 3
    factors = np.where(waves < 2048, 1, np.where(waves > 8192, 8, 1 / ((1 - smooth) / 8 + smooth)))
    w.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    finish(w)
    load("kinds.gguf")


def plain():
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    words = ["▁", "a", "b", "c", "n", "o", "l", "h", "e", "▁a", "la", "ol", "hola", "▁hola", "ho", "▁h", "▁ho", "▁▁", "an", "▁an",
             "ñ", "<tool>", "ab", "abc", "▁abc", "▁ab"]
    scores = [0.0] * 3 + [0.0] * 256 + [-float(i) for i in rng.permutation(len(words))]
    types = [2, 3, 3] + [6] * 256 + [4 if word == "<tool>" else 1 for word in words]
    w = gguf.GGUFWriter(out / "plain.gguf", "qwen2")
    common(w, hidden=16, ffn=24, heads=2, kv=1, theta=10000.0)
    w.add_tokenizer_model("llama")
    w.add_token_list(pieces + words)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_tensor("token_embd.weight", half(len(pieces + words), 16))
    for name, rows, columns in [("attn_q", 16, 16), ("attn_k", 8, 16), ("attn_v", 8, 16), ("attn_output", 16, 16),
                                ("ffn_gate", 24, 16), ("ffn_up", 24, 16), ("ffn_down", 16, 24)]:
        w.add_tensor(f"blk.0.{name}.weight", half(rows, columns))
        if name in ["attn_q", "attn_k", "attn_v"]:
            w.add_tensor(f"blk.0.{name}.bias", norm(rows))
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]:
        w.add_tensor(name + ".weight", norm(16))
    finish(w)
    load("plain.gguf")
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file="plain.gguf")
    texts = ["", "hola", " hola", "  hola an", "abc ñ é", "a<tool>b", "</s>hola", "hola\nabc\tan 日本", "   "]
    rows = [{"text": t, "ids": tokenizer(t)["input_ids"], "decoded": tokenizer.decode(tokenizer(t)["input_ids"])} for t in texts]
    (out / "texts.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


kinds()
plain()
