"""Makes lora/{base,adapter,merged}: a tiny Llama, a PEFT adapter of every supported kind, and what peft merges them to."""
import sys
from pathlib import Path

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

out = Path(sys.argv[1])
torch.manual_seed(0)
config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
                     num_key_value_heads=1, attention_bias=True, tie_word_embeddings=False)
model = LlamaForCausalLM(config).float()
with torch.no_grad():
    for p in model.parameters():
        p.normal_(0, 0.5)
model.save_pretrained(out / "base")
lora = peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, use_rslora=True, bias="all",
                       target_modules=["q_proj", "v_proj", "down_proj", "embed_tokens"], modules_to_save=["lm_head"],
                       rank_pattern={r"layers.1.self_attn.q_proj": 2, "down_proj": 4}, alpha_pattern={r"^model.layers.0.mlp.down_proj": 7})
model = peft.get_peft_model(model, lora)
with torch.no_grad():
    for n, p in model.named_parameters():
        if p.requires_grad or "lora_" in n or "modules_to_save" in n or n.endswith("bias"):
            p.normal_(0, 0.5)
model.save_pretrained(out / "adapter")
model.merge_and_unload().save_pretrained(out / "merged")
