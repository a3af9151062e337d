"""The captioners: a small Blip and a small Llava, each with a weaker sibling kept from early in its training, and a
Llava that went on to unclear pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoProcessor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from cyclepref.builder.shapeworld.grammar import describe
from cyclepref.builder.shapeworld.oracle import attributes_right
from cyclepref.builder.shapeworld.render import SIZE
from cyclepref.builder.shapeworld.training import data, unclear, vocabulary
from cyclepref.builder.shapeworld.training.loop import Job, Progress, Run, fit

STEPS, BATCH = 3500, 64
NEW_TOKENS = 16
QUESTION = "describe the picture"
# The early sibling is the last checkpoint with at most this share of attributes right.
EARLY = {"blip": 0.80, "llava": 0.70}
READER = "llava-reader"
READER_STEPS = 1250
_PATCH, _WIDTH = 8, 96
_HALF = [0.5, 0.5, 0.5]
_PICTURE = {"height": SIZE, "width": SIZE}
# Content lists as Llava's users write them: [{"type": "image"}, {"type": "text", "text": ...}].
_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} "
    "{% endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def build_blip() -> tuple[BlipForConditionalGeneration, BlipProcessor]:
    """An untrained Blip of 0.6M parameters on 8x8 patches of 64x64 pixels, and its processor."""
    tokenizer = vocabulary.bert_tokenizer()
    shared = {"hidden_size": _WIDTH, "intermediate_size": 4 * _WIDTH, "num_attention_heads": 4}
    text = shared | {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": _WIDTH,
        "num_hidden_layers": 2,
        "max_position_embeddings": 32,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = shared | {
        "num_hidden_layers": 3,
        "image_size": SIZE,
        "patch_size": _PATCH,
        "initializer_range": 0.02,  # Blip's default of 1e-10 is for loading, not for training
    }
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=32, image_text_hidden_size=32)
    images = BlipImageProcessor(size=_PICTURE, image_mean=_HALF, image_std=_HALF)
    return BlipForConditionalGeneration(config), BlipProcessor(images, tokenizer)


def build_llava() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """An untrained Llava of 0.7M parameters: CLIP vision on 8x8 patches, a Llama of two layers, and its processor."""
    tokenizer = vocabulary.llama_tokenizer(QUESTION)
    shared = {"hidden_size": _WIDTH, "num_attention_heads": 4}
    vision = CLIPVisionConfig(
        **shared, intermediate_size=4 * _WIDTH, num_hidden_layers=3, image_size=SIZE, patch_size=_PATCH
    )
    text = LlamaConfig(
        **shared,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    patches = (SIZE // _PATCH) ** 2
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=patches,
        vision_feature_layer=-1,  # Llava's usual -2 would leave the last of three layers unused
        tie_word_embeddings=True,
    )
    images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=_PICTURE, image_mean=_HALF, image_std=_HALF)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token
        chat_template=_CHAT_TEMPLATE,
    )
    return LlavaForConditionalGeneration(config), processor


def chat(question: str = QUESTION) -> list[dict]:
    """A conversation that asks about one picture, for `processor.apply_chat_template`."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


class Lesson:
    """Turns scenes and pictures into training inputs of one of the two models, and its answers into captions."""

    def __init__(self, name: str, processor: ProcessorMixin):
        self.name, self.tokenizer = name, processor.tokenizer
        self.prompt = torch.empty((1, 0), dtype=torch.long)
        if name == "llava":
            text = processor.apply_chat_template(chat(), add_generation_prompt=True)
            patches = (SIZE // _PATCH) ** 2
            text = text.replace("<image>", "<image>" * patches)
            self.prompt = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids

    def inputs(self, pictures: torch.Tensor, captions: list[str]) -> dict[str, torch.Tensor]:
        """Model inputs for pictures (n, 3, 64, 64) in [0, 1] with the captions as targets."""
        if self.name == "llava":
            captions = [f"{caption} {self.tokenizer.eos_token}" for caption in captions]
        answer = self.tokenizer(captions, padding=True, padding_side="right", return_tensors="pt")
        prompt = self.prompt.expand(len(captions), -1)
        mask = torch.cat([torch.ones_like(prompt), answer.attention_mask], dim=1)
        labels = answer.input_ids.masked_fill(answer.attention_mask == 0, -100)
        return {
            "pixel_values": pictures * 2 - 1,
            "input_ids": torch.cat([prompt, answer.input_ids], dim=1),
            "attention_mask": mask,
            "labels": torch.cat([torch.full_like(prompt, -100), labels], dim=1),
        }

    def captions(self, model: PreTrainedModel, pictures: torch.Tensor) -> list[str]:
        """Greedy captions of pictures (n, 3, 64, 64) in [0, 1]."""
        pixels = (pictures * 2 - 1).to(model.device)
        extra = {}
        if self.name == "llava":
            ids = self.prompt.expand(len(pictures), -1).to(model.device)
            extra = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        out = model.generate(pixel_values=pixels, **extra, max_new_tokens=NEW_TOKENS, do_sample=False)
        return self.tokenizer.batch_decode(out[:, self.prompt.shape[1] :], skip_special_tokens=True)


def accuracy(lesson: Lesson, model: PreTrainedModel, count: int = 96) -> float:
    """The mean share of attributes right on fresh renders of training-side scenes."""
    scenes = data.training_scenes("captioner check", 0, count)
    captions = lesson.captions(model, data.pictures("captioner check", 0, scenes))
    return sum(map(attributes_right, scenes, captions)) / count


def export(lesson: Lesson, processor, model: PreTrainedModel, progress: Progress, run: Run) -> None:
    """Save a checkpoint as the model, and as its early sibling too if it is not yet better than the sibling may be."""
    right = accuracy(lesson, model)
    print(f"{lesson.name}: {right:.1%} of attributes right after {progress.step} steps", flush=True)
    save(model, processor, run.out / lesson.name)
    early = run.out / f"{lesson.name}-early"
    if right <= EARLY[lesson.name] or not early.exists():
        save(model, processor, early)
        (run.work / f"{lesson.name}-early.txt").write_text(f"{progress.step} {progress.seconds:.0f} {right:.4f}\n")


def save(model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Write a captioner as `from_pretrained` reads it, weights in half precision."""
    half = type(model)(model.config).half()
    half.load_state_dict(model.state_dict())
    half.generation_config.max_new_tokens = NEW_TOKENS
    half.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(name: str, run: Run) -> None:
    """Train the captioner `name` ("blip" or "llava") to the end, saving it and its early sibling on the way."""
    torch.manual_seed({"blip": 3, "llava": 4}[name])
    model, processor = {"blip": build_blip, "llava": build_llava}[name]()
    lesson = Lesson(name, processor)

    def loss(model: PreTrainedModel, step: int) -> torch.Tensor:
        scenes = data.training_scenes(name, step, BATCH)
        pictures = data.worn(data.pictures(name, step, scenes))
        inputs = lesson.inputs(pictures, [describe(scene) for scene in scenes])
        return model(**{key: value.to(run.device) for key, value in inputs.items()}).loss

    def checkpoint(model: PreTrainedModel, progress: Progress) -> None:
        export(lesson, processor, model, progress, run)

    fit(Job(name, model, loss, checkpoint, STEPS, BATCH, lr=1.5e-3, exports=24), run)


def train_reader(run: Run) -> None:
    """Train the trained Llava on, on unclear pictures as well, and save it as the captioner READER.

    Of a batch a quarter are worn renders as before, the others unclear ones (see `unclear`). The weak pipelines and the
    Llava are read from the run's folder of weights.

    Raises OSError when these have not been trained.
    """
    model = LlavaForConditionalGeneration.from_pretrained(run.out / "llava", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(run.out / "llava")
    lesson = Lesson("llava", processor)
    painted = unclear.HalfPainted(run.out, run.work / "half_painted.pt", run.steps(unclear.POOL))
    quarter = BATCH // 4

    def loss(model: PreTrainedModel, step: int) -> torch.Tensor:
        scenes = data.training_scenes(READER, step, 3 * quarter)
        plain, battered, faded = (scenes[i : i + quarter] for i in range(0, len(scenes), quarter))
        half, captions = painted.batch(BATCH - len(scenes))
        pictures = [
            data.worn(data.pictures(f"{READER} plain", step, plain)),
            unclear.battered(data.pictures(f"{READER} battered", step, battered)),
            unclear.fading(f"{READER} fading", step, faded),
            data.worn(half),
        ]
        inputs = lesson.inputs(torch.cat(pictures), [*map(describe, scenes), *captions])
        return model(**{key: value.to(run.device) for key, value in inputs.items()}).loss

    def checkpoint(model: PreTrainedModel, progress: Progress) -> None:
        print(f"{READER}: {accuracy(lesson, model):.1%} of attributes right after {progress.step} steps", flush=True)
        save(model, processor, run.out / READER)

    fit(Job(READER, model, loss, checkpoint, READER_STEPS, BATCH, lr=8e-4), run)
