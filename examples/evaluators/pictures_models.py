"""Makes three tiny models that see, for pictures.yaml: a base, one that was taught colours, and one that was taught sides.

    python pictures_models.py OUT       # OUT/base, OUT/colour, OUT/side; needs torch and transformers

Pictures are 8 × 8 pixels with one bright half. Only the language half is taught, so all three see alike, and what each has
learned can be merged into one. A minute on one processor.
"""

import sys

import torch
from tokenizers import Tokenizer, models
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast

WORDS = ["<pad>", "<s>", "</s>", "<image>", "what", "colour", "side", "?", "red", "green", "blue", "left", "right"]
ANSWERS = {"colour": ["red", "green", "blue"], "side": ["left", "right"]}
PATCHES = 4


def questions(task, count, seed):
    """Pictures, prompts and the number of the right word."""
    random = torch.Generator().manual_seed(seed)
    pixels = 0.2 * torch.randn(count, 3, 8, 8, generator=random)
    colour = torch.randint(3, (count,), generator=random)
    side = torch.randint(2, (count,), generator=random)
    for i in range(count):
        pixels[i, colour[i], :, 4 * side[i] : 4 * side[i] + 4] += 2.0
    prompt = ["<s>"] + ["<image>"] * PATCHES + ["what", task, "?"]
    ids = torch.tensor([[WORDS.index(word) for word in prompt]] * count)
    right = torch.tensor([WORDS.index(ANSWERS[task][i]) for i in (colour if task == "colour" else side)])
    return pixels, ids, right


def answers(model, pixels, ids):
    """Log-probabilities of the next word."""
    logits = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
    return logits[:, -1].log_softmax(-1)


def teach(model, tasks, steps, rate):
    taught = [p for name, p in model.named_parameters() if "language_model" in name or "lm_head" in name]
    optimizer = torch.optim.AdamW(taught, lr=rate)
    for step in range(steps):
        task = tasks[step % len(tasks)]
        pixels, ids, right = questions(task, 32, seed=1000 + step)
        loss = torch.nn.functional.nll_loss(answers(model, pixels, ids), right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{' and '.join(tasks)}: loss {float(loss.detach()):.3f}", file=sys.stderr)


def main(out):
    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = LlavaConfig(
        vision_config=dict(model_type="clip_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                           image_size=8, patch_size=4, projection_dim=32),
        text_config=dict(model_type="llama", vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        image_token_index=WORDS.index("<image>"), vision_feature_layer=-1,
    )
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")), unk_token="<pad>",
                                        bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "language_model" not in name and p.dim() > 1:
                p.mul_(8)  # a random tower that tells pictures apart
    teach(model, ["colour", "side"], 60, 2e-3)
    for name, tasks in [("base", []), ("colour", ["colour"]), ("side", ["side"])]:
        child = LlavaForConditionalGeneration(config)
        child.load_state_dict(model.state_dict())
        if tasks:
            teach(child, tasks, 150, 2e-3)
        child.save_pretrained(f"{out}/{name}")
        tokenizer.save_pretrained(f"{out}/{name}")


if __name__ == "__main__":
    main(sys.argv[1])
