"""Adapters on models that also see, whose modules are called otherwise in files and in transformers: what peft makes of them.

    pip install torch transformers peft safetensors
    python make_wrapped_lora.py lora/wrapped

OUT/KIND/base, OUT/KIND/adapter_* and OUT/KIND/expected.safetensors: the merged weights by their names in the base's file. A head
that is tied to the embeddings parts from them, as the unmerged adapter computes: expected then comes from a copy with a head of
its own. Files and adapters have the names of several days: see KINDS.
"""
import copy, os, pathlib, shutil, sys, warnings
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

warnings.filterwarnings("ignore")
TEXT = dict(vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=64)
TOWER = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
GEMMA3 = dict(model_type="gemma3", mm_tokens_per_image=4, vision_config=dict(TOWER, model_type="siglip_vision_model", vision_use_head=False),
              text_config=dict(TEXT, model_type="gemma3_text", head_dim=4, sliding_window=16))
LLAVA = dict(model_type="llava", image_token_index=23, vision_config=dict(TOWER, model_type="clip_vision_model", projection_dim=8),
             text_config=dict(TEXT, model_type="llama"))
QWEN = dict(model_type="qwen2_5_vl", tie_word_embeddings=True, vision_config=dict(
    depth=1, hidden_size=8, intermediate_size=12, num_heads=2, patch_size=4, out_hidden_size=8, fullatt_block_indexes=[0]),
    text_config=dict(TEXT, rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 0])))
# As the first Gemma 3 and LLaVA were published: a tower with a model in it.
PUBLISHED = [("vision_tower.", "vision_tower.vision_model.")]
BETWEEN = [("language_model.lm_head.", "lm_head."), ("language_model.model.", "model.language_model."), ("vision_tower.", "model.vision_tower."),
           ("multi_modal_projector.", "model.multi_modal_projector.")]
# The config, how the file's names differ from today's, how the adapter's do, and what is trained.
KINDS = {
    "gemma3": (GEMMA3, PUBLISHED, [], dict(target_modules=["q_proj", "down_proj", "fc1"])),
    "gemma3_text_alone": (GEMMA3, [], [("model.language_model.", "model.")], dict(target_modules=r".*language_model.*(q_proj|up_proj)",
                                                                                   rank_pattern={"up_proj": 1}, use_rslora=True)),
    "gemma3_head": (GEMMA3, [], [], dict(target_modules=["lm_head"])),
    "llava": (LLAVA, BETWEEN, [("model.language_model.", "language_model.model."), ("model.vision", "vision")], dict(
        target_modules=["v_proj", "fc2", "linear_1"], modules_to_save=["lm_head"])),
    "qwen2_5_vl": (QWEN, [], [], dict(target_modules=["qkv", "k_proj"], lora_bias=True)),
    "qwen2_5_vl_embeddings": (QWEN, [], [], dict(target_modules=["o_proj"], modules_to_save=["embed_tokens"])),
}


def renamed(name, pairs, before=""):
    for old, new in pairs:
        if name.startswith(before + old):
            return before + new + name[len(before + old):]
    return name


def rename(file, pairs, before=""):
    save_file({renamed(name, pairs, before): t for name, t in load_file(file).items()}, file, metadata={"format": "pt"})


def shaken(model, seed, only_trained=False):
    torch.manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad or not only_trained:
            p.data += 0.1 * torch.randn_like(p)
    return model


def main(out):
    ids = torch.arange(3, 21)[None]
    for kind, (config, of_file, of_adapter, how) in KINDS.items():
        dir = pathlib.Path(out, kind)
        shutil.rmtree(dir, ignore_errors=True)
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**copy.deepcopy(config))).float()
        shaken(model, 1).save_pretrained(dir / "base")
        (dir / "base/generation_config.json").unlink(missing_ok=True)
        rename(dir / "base/model.safetensors", of_file)
        base = lambda: AutoModelForImageTextToText.from_pretrained(dir / "base").eval()
        trained = get_peft_model(base(), LoraConfig(r=2, lora_alpha=3, **how)).eval()
        shaken(trained, 2, True).save_pretrained(dir)
        os.remove(dir / "README.md")
        settings = dir / "adapter_config.json"
        settings.write_text(settings.read_text().replace(str(dir / "base"), "base"))
        unmerged = PeftModel.from_pretrained(base(), dir).eval()
        apart = base()
        parts = kind in ("gemma3_head", "qwen2_5_vl_embeddings")
        if parts:
            apart.lm_head.weight = torch.nn.Parameter(apart.lm_head.weight.data.clone())
            apart.config.tie_word_embeddings = apart.config.text_config.tie_word_embeddings = False
        merged = PeftModel.from_pretrained(apart, dir).merge_and_unload()
        with torch.no_grad():
            off = (merged(input_ids=ids).logits - unmerged(input_ids=ids).logits).abs().max()
        assert off < 2e-5, (kind, off)
        merged.save_pretrained(dir / "merged")
        # transformers saves a model by the names of the file that it came from, or by today's.
        of_base = load_file(dir / "base/model.safetensors")
        weights = {name if name in of_base else renamed(name, of_file): t for name, t in load_file(dir / "merged/model.safetensors").items()}
        if parts and "language_model.model.norm.weight" in of_base:  # a head of its own, by the name that belongs to the others
            weights["language_model.lm_head.weight"] = weights.pop("lm_head.weight")
        assert of_base.keys() <= weights.keys() and len(weights) == len(of_base) + parts, kind
        save_file(weights, dir / "expected.safetensors")
        shutil.rmtree(dir / "merged")
        rename(dir / "adapter_model.safetensors", of_adapter, "base_model.model.")
        print(kind, float(off), sorted(load_file(dir / "adapter_model.safetensors"))[:2], len(weights))


if __name__ == "__main__":
    main(sys.argv[1])
