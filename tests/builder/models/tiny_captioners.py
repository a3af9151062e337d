"""Image-to-text models of real architectures, tiny and with random weights, saved in the Hub's own layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tiny_parts import HALF, bert_tokenizer, chat, clip_images, t5_words, text_config, vision, word_tokenizer

FAMILIES: dict[str, Callable[[], tuple[Any, Any, dict[str, Any]]]] = {}


def family(build: Callable[[], tuple[Any, Any, dict[str, Any]]]) -> Callable[[], tuple[Any, Any, dict[str, Any]]]:
    """Register a builder of (model, processor, settings of its spec) by its own name."""
    FAMILIES[build.__name__] = build
    return build


def save(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Build a family's tiny model in a folder; returns the folder and the settings of its spec."""
    torch.manual_seed(sum(map(ord, name)))
    model, processor, settings = FAMILIES[name]()
    _enliven(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder), {"prompt_style": "chat", **settings}


def _enliven(model: torch.nn.Module) -> None:
    """Weights large enough that another image gives other logits: the usual 0.02 is nearly a constant function."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)


# ---- families with a chat template -----------------------------------------------------------------------------


@family
def llava():
    tokenizer = word_tokenizer("USER:", "ASSISTANT:", image_token="<image>")
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**vision(), projection_dim=32),
        text_config=text_config(t.LlamaConfig, tokenizer), image_token_id=tokenizer.image_token_id,
        image_seq_length=16,
    )  # fmt: skip
    processor = t.LlavaProcessor(
        clip_images(), tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat("<image>"),
    )  # fmt: skip
    return t.LlavaForConditionalGeneration(config), processor, {}


def _llava_next(kind: type):
    tokenizer = word_tokenizer("[INST]", "[/INST]", image_token="<image>")
    grid = [[32, 64], [64, 32], [64, 64]]
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**vision(), projection_dim=32), text_config=text_config(kind, tokenizer),
        image_token_id=tokenizer.image_token_id, image_grid_pinpoints=grid,
    )  # fmt: skip
    images = t.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size=32, image_grid_pinpoints=grid, image_mean=HALF, image_std=HALF
    )
    processor = t.LlavaNextProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=chat("<image>", "[INST]", "[/INST]"),
    )  # fmt: skip
    return t.LlavaNextForConditionalGeneration(config), processor, {}


@family
def llava_next_mistral():
    return _llava_next(t.MistralConfig)


@family
def llava_next_llama():  # Vicuna's and the 34B's language model
    return _llava_next(t.LlamaConfig)


@family
def llava_onevision():
    tokenizer = word_tokenizer("<|im_start|>", image_token="<image>", video_token="<video>")
    grid = [[32, 64], [64, 32], [64, 64], [96, 96]]
    config = t.LlavaOnevisionConfig(
        vision_config=t.SiglipVisionConfig(**vision(), vision_use_head=False),
        text_config=text_config(t.Qwen2Config, tokenizer), image_grid_pinpoints=grid, vision_feature_layer=-1,
        image_token_id=tokenizer.image_token_id, video_token_id=tokenizer.video_token_id,
    )  # fmt: skip
    images = t.LlavaOnevisionImageProcessor(
        size={"height": 32, "width": 32}, image_grid_pinpoints=grid, image_mean=HALF, image_std=HALF
    )
    videos = t.LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32})
    processor = t.LlavaOnevisionProcessor(
        images, tokenizer, videos, num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=chat("<image>", "<|im_start|>"),
    )  # fmt: skip
    return t.LlavaOnevisionForConditionalGeneration(config), processor, {}


@family
def internvl():
    roles = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = word_tokenizer("<|im_start|>", **roles, video_token="<video>")
    config = t.InternVLConfig(
        vision_config=t.InternVLVisionConfig(**vision(image_size=[32, 32], patch_size=[8, 8])),
        text_config=text_config(t.Qwen2Config, tokenizer), image_seq_length=4, downsample_ratio=0.5,
        image_token_id=tokenizer.context_image_token_id,
    )  # fmt: skip
    size = {"height": 32, "width": 32}
    images = t.GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4, image_mean=HALF, image_std=HALF)
    videos = t.InternVLVideoProcessor(size=size)
    processor = t.InternVLProcessor(
        images, tokenizer, videos, image_seq_length=4, chat_template=chat("<IMG_CONTEXT>", "<|im_start|>")
    )
    return t.InternVLForConditionalGeneration(config), processor, {}


QWEN_SPECIAL = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>",
                "image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}  # fmt: skip


def _qwen(config_kind: type, model_kind: type, processor_kind: type, video_kind: type, vision_config: dict, rope: dict):
    tokenizer = word_tokenizer("<|im_start|>", **QWEN_SPECIAL)
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in QWEN_SPECIAL.items()}
    text = text_config(config_kind.sub_configs["text_config"], tokenizer, rope_parameters=rope).to_dict()
    config = config_kind(vision_config=vision_config, text_config=text, **ids)
    size = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    options = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    template = chat("<|vision_start|><|image_pad|><|vision_end|>", "<|im_start|>")
    images = t.Qwen2VLImageProcessor(**options)
    return model_kind(config), processor_kind(images, tokenizer, video_kind(**options), chat_template=template), {}


@family
def qwen2_vl():
    vision_config = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    kinds = t.Qwen2VLConfig, t.Qwen2VLForConditionalGeneration, t.Qwen2VLProcessor, t.Qwen2VLVideoProcessor
    return _qwen(*kinds, vision_config, rope)


@family
def qwen2_5_vl():
    vision_config = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 8, "out_hidden_size": 32,
        "window_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    kinds = t.Qwen2_5_VLConfig, t.Qwen2_5_VLForConditionalGeneration, t.Qwen2_5_VLProcessor, t.Qwen2VLVideoProcessor
    return _qwen(*kinds, vision_config, rope)


@family
def qwen3_vl():
    vision_config = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": 8, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10000.0}
    kinds = t.Qwen3VLConfig, t.Qwen3VLForConditionalGeneration, t.Qwen3VLProcessor, t.Qwen3VLVideoProcessor
    return _qwen(*kinds, vision_config, rope)


@family
def idefics3():
    """Also SmolVLM-Instruct, the first of its line."""
    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows]
    tokenizer = word_tokenizer(*special)
    config = t.Idefics3Config(
        vision_config=vision(), text_config=text_config(t.LlamaConfig, tokenizer), scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    images = t.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, image_mean=HALF, image_std=HALF
    )
    processor = t.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat("<image>"))
    return t.Idefics3ForConditionalGeneration(config), processor, {}


@family
def gemma3():
    roles = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = word_tokenizer("<start_of_turn>", **roles)
    config = t.Gemma3Config(
        vision_config=t.SiglipVisionConfig(**vision(), vision_use_head=False), mm_tokens_per_image=4,
        text_config=text_config(t.Gemma3TextConfig, tokenizer, sliding_window=512, query_pre_attn_scalar=8),
        boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )  # fmt: skip
    images = t.Gemma3ImageProcessor(size={"height": 32, "width": 32}, image_mean=HALF, image_std=HALF)
    processor = t.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=chat("<start_of_image>", "<start_of_turn>")
    )
    return t.Gemma3ForConditionalGeneration(config), processor, {}


# ---- families without a chat template --------------------------------------------------------------------------


@family
def paligemma():
    tokenizer = word_tokenizer(image_token="<image>")
    images = t.SiglipImageProcessor(size={"height": 32, "width": 32}, image_mean=HALF, image_std=HALF)
    images.image_seq_length = 16
    processor = t.PaliGemmaProcessor(images, tokenizer)
    config = t.PaliGemmaConfig(
        vision_config=t.SiglipVisionConfig(**vision(projection_dim=32), vision_use_head=False), projection_dim=32,
        text_config=text_config(t.GemmaConfig, tokenizer).to_dict(), image_token_index=tokenizer.image_token_id,
    )  # fmt: skip
    return t.PaliGemmaForConditionalGeneration(config), processor, {"prompt_style": "prefix", "prompt": "caption en"}


@family
def florence2():
    tokenizer = word_tokenizer(image_token="<image>")
    images = t.CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, image_mean=HALF, image_std=HALF
    )
    images.image_seq_length = 5
    processor = t.Florence2Processor(images, tokenizer, num_additional_image_tokens=0)
    config = t.Florence2Config(
        vision_config={
            "embed_dim": [16, 32], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2], "patch_size": [7, 3],
            "patch_stride": [4, 4], "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 4,
            "projection_dim": 32, "max_temporal_embeddings": 8, "max_position_embeddings": 8, "drop_path_rate": 0.0,
        },
        text_config=t.BartConfig(
            vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=256,
            bos_token_id=2, eos_token_id=3, pad_token_id=0, decoder_start_token_id=3, forced_eos_token_id=3,
        ).to_dict(),
        image_token_id=tokenizer.image_token_id, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    settings = {"prompt_style": "prefix", "prompt": "<MORE_DETAILED_CAPTION>"}
    return t.Florence2ForConditionalGeneration(config), processor, settings


def _blip():
    tokenizer = bert_tokenizer()
    config = t.BlipConfig(
        vision_config=vision(), projection_dim=32, image_text_hidden_size=32,
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "encoder_hidden_size": 32, "max_position_embeddings": 64,
            "bos_token_id": tokenizer.cls_token_id, "eos_token_id": 2, "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id, "is_decoder": True,
        },
    )  # fmt: skip
    images = t.BlipImageProcessor(size={"height": 32, "width": 32})
    return t.BlipForConditionalGeneration(config), t.BlipProcessor(images, tokenizer)


@family
def blip():
    return *_blip(), {"prompt_style": "none"}


@family
def blip_prefix():
    """BLIP that continues the beginning of a caption."""
    return *_blip(), {"prompt_style": "prefix", "prompt": "a red"}


@family
def git():
    tokenizer = bert_tokenizer()
    config = t.GitConfig(
        vision_config=vision(), vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return t.GitForCausalLM(config), t.GitProcessor(clip_images(), tokenizer), {"prompt_style": "none"}


def _blip2(language: Any, tokenizer: Any, kind: str):
    """BLIP-2 or InstructBLIP: a query transformer between vision and a language model."""
    former = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "encoder_hidden_size": 32, "vocab_size": 64,
    }  # fmt: skip
    parts = {"vision_config": vision(), "qformer_config": former, "text_config": language.to_dict()}
    numbers = {"num_query_tokens": 4, "image_token_index": tokenizer.convert_tokens_to_ids("<image>")}
    images = t.BlipImageProcessor(size={"height": 32, "width": 32})
    if kind == "instruct":
        model = t.InstructBlipForConditionalGeneration(t.InstructBlipConfig(**parts, **numbers))
        return model, t.InstructBlipProcessor(images, tokenizer, bert_tokenizer(), num_query_tokens=4)
    model = t.Blip2ForConditionalGeneration(t.Blip2Config(**parts, **numbers))
    return model, t.Blip2Processor(images, tokenizer, num_query_tokens=4)


def _opt(tokenizer: Any) -> t.OPTConfig:
    return t.OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=32, bos_token_id=2, eos_token_id=3, pad_token_id=0, max_position_embeddings=128,
    )  # fmt: skip


def _t5(tokenizer: Any) -> t.T5Config:
    return t.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, bos_token_id=0, tie_word_embeddings=False, feed_forward_proj="gated-gelu",
    )  # fmt: skip


@family
def blip2_opt():
    tokenizer = word_tokenizer("<image>")
    return *_blip2(_opt(tokenizer), tokenizer, "plain"), {"prompt_style": "none"}


@family
def blip2_opt_prefix():
    tokenizer = word_tokenizer("<image>")
    return *_blip2(_opt(tokenizer), tokenizer, "plain"), {"prompt_style": "prefix", "prompt": "a cat on"}


@family
def blip2_flan_t5():
    tokenizer = t5_words()
    return *_blip2(_t5(tokenizer), tokenizer, "plain"), {"prompt_style": "prefix", "prompt": "Write a description"}


@family
def instructblip_vicuna():
    tokenizer = word_tokenizer("<image>")
    language = text_config(t.LlamaConfig, tokenizer)
    return *_blip2(language, tokenizer, "instruct"), {"prompt_style": "prefix", "prompt": "Write a description"}


@family
def instructblip_flan_t5():
    tokenizer = t5_words()
    return *_blip2(_t5(tokenizer), tokenizer, "instruct"), {"prompt_style": "prefix", "prompt": "Write a description"}
