"""Text-to-image pipelines of real architectures, tiny and with random weights, saved in the Hub's own layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as d
import torch
import transformers as t
from tiny_parts import WORDS, character_tokenizer, clip_tokenizer, t5_tokenizer

FAMILIES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {}
SIZE = {"width": 32, "height": 32}
EIGHTH = (8, 8, 8, 16)  # an autoencoder of four levels: some pipelines take it for granted that latents are an eighth


def family(build: Callable[[], tuple[Any, dict[str, Any]]]) -> Callable[[], tuple[Any, dict[str, Any]]]:
    """Register a builder of (pipeline, settings of its spec) by its own name."""
    FAMILIES[build.__name__] = build
    return build


def save(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Build a family's tiny pipeline in a folder; returns the folder and the settings of its spec."""
    torch.manual_seed(sum(map(ord, name)))
    pipeline, settings = FAMILIES[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            _enliven(part)
    pipeline.save_pretrained(folder)
    return str(folder), {"steps": 2, "guidance": 3.0, **SIZE, **settings}


def _enliven(model: torch.nn.Module) -> None:
    """Weights large enough that another prompt gives another image; many begin at zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "concept" not in name and "special_care" not in name:
                parameter.normal_(0, 1 / parameter[0].numel() ** 0.5)


# ---- parts -----------------------------------------------------------------------------------------------------


def clip_text(kind: type = t.CLIPTextModel) -> Any:
    return kind(
        t.CLIPTextConfig(
            vocab_size=64, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            projection_dim=32, max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    ).eval()  # fmt: skip


def t5() -> tuple[t.T5EncoderModel, t.T5TokenizerFast]:
    tokenizer = t5_tokenizer()
    config = t.T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return t.T5EncoderModel(config).eval(), tokenizer


def language(kind: type, config: type, tokenizer: Any, **changes: Any) -> Any:
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 2048,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, **changes,
    }  # fmt: skip
    return kind(config(**sizes)).eval()


def autoencoder(channels: int = 4, blocks: tuple[int, ...] = (32, 64), **changes: Any) -> d.AutoencoderKL:
    return d.AutoencoderKL(
        block_out_channels=blocks, in_channels=3, out_channels=3, latent_channels=channels, norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"] * len(blocks), up_block_types=["UpDecoderBlock2D"] * len(blocks),
        sample_size=32, **changes,
    ).eval()  # fmt: skip


def unet(**changes: Any) -> d.UNet2DConditionModel:
    return d.UNet2DConditionModel(
        **{
            "block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 16, "in_channels": 4,
            "out_channels": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "norm_num_groups": 8,
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32, **changes,
        }
    )  # fmt: skip


def movq(blocks: tuple[int, ...] = (32, 64)) -> d.VQModel:
    plain = len(blocks) - 1
    return d.VQModel(
        block_out_channels=blocks, down_block_types=["DownEncoderBlock2D"] * plain + ["AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * plain, in_channels=3, out_channels=3,
        latent_channels=4, layers_per_block=1, norm_num_groups=8, norm_type="spatial", num_vq_embeddings=12,
        vq_embed_dim=4,
    )  # fmt: skip


def safety_checker() -> Any:
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    vision = t.CLIPVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4, image_size=32, patch_size=8
    )
    return StableDiffusionSafetyChecker(t.CLIPConfig(vision_config=vision.to_dict(), projection_dim=32))


# ---- families --------------------------------------------------------------------------------------------------


@family
def stable_diffusion():
    """SD 1.5 and 2.1, with the safety checker that 1.5 has."""
    checker = safety_checker()
    checker.concept_embeds_weights.data.fill_(2.0)  # a cosine that no image reaches
    checker.special_care_embeds_weights.data.fill_(2.0)
    pipeline = d.StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=clip_text(), tokenizer=clip_tokenizer(), unet=unet(),
        scheduler=d.PNDMScheduler(skip_prk_steps=True), safety_checker=checker,
        feature_extractor=t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )  # fmt: skip
    return pipeline, {"negative_prompt": "a dog"}


@family
def stable_diffusion_xl():
    """SDXL and SDXL-Turbo."""
    denoiser = unet(
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
    )  # fmt: skip
    pipeline = d.StableDiffusionXLPipeline(
        vae=autoencoder(), text_encoder=clip_text(), text_encoder_2=clip_text(t.CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), unet=denoiser, scheduler=d.EulerDiscreteScheduler(),
    )  # fmt: skip
    return pipeline, {}


@family
def stable_diffusion_3():
    """SD3 and 3.5."""
    text_encoder, tokenizer = t5()
    transformer = d.SD3Transformer2DModel(
        sample_size=32, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    pipeline = d.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=d.FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_text(t.CLIPTextModelWithProjection), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(t.CLIPTextModelWithProjection), tokenizer_2=clip_tokenizer(),
        text_encoder_3=text_encoder, tokenizer_3=tokenizer,
    )  # fmt: skip
    return pipeline, {"max_sequence_length": 32}


@family
def flux():
    text_encoder, tokenizer = t5()
    transformer = d.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    pipeline = d.FluxPipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(), transformer=transformer, text_encoder=clip_text(),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        tokenizer=clip_tokenizer(), text_encoder_2=text_encoder, tokenizer_2=tokenizer,
    )  # fmt: skip
    return pipeline, {"max_sequence_length": 32, "guidance": 0.0}


@family
def pixart_sigma():
    text_encoder, tokenizer = t5()
    transformer = d.PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, norm_type="ada_norm_single",
    )  # fmt: skip
    pipeline = d.PixArtSigmaPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=autoencoder(), transformer=transformer,
        scheduler=d.DPMSolverMultistepScheduler(),
    )  # fmt: skip
    return pipeline, {"max_sequence_length": 32, "arguments": {"clean_caption": False, "use_resolution_binning": False}}


@family
def sana():
    tokenizer = character_tokenizer()
    transformer = d.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=16,
        sample_size=32,
    )  # fmt: skip
    vae = d.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.4,
    )  # fmt: skip
    pipeline = d.SanaPipeline(
        tokenizer=tokenizer, text_encoder=language(t.Gemma2Model, t.Gemma2Config, tokenizer), vae=vae,
        transformer=transformer, scheduler=d.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    return pipeline, {"max_sequence_length": 64, "arguments": {"use_resolution_binning": False}}


@family
def hunyuan_dit():
    text_encoder, tokenizer = t5()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    bert = t.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=37
    )
    transformer = d.HunyuanDiT2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
        cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=24,
    )  # fmt: skip
    pipeline = d.HunyuanDiTPipeline(
        vae=autoencoder(blocks=EIGHTH), text_encoder=t.BertModel(bert).eval(), transformer=transformer,
        tokenizer=t.BertTokenizer(vocab={w: i for i, w in enumerate(words)}, model_max_length=77),
        scheduler=d.DDPMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        text_encoder_2=text_encoder, tokenizer_2=tokenizer,
    )  # fmt: skip
    return pipeline, {"arguments": {"use_resolution_binning": False}}


@family
def lumina():
    tokenizer = character_tokenizer()
    transformer = d.LuminaNextDiT2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, cross_attention_dim=16,
    )  # fmt: skip
    pipeline = d.LuminaPipeline(
        transformer=transformer, scheduler=d.FlowMatchEulerDiscreteScheduler(), vae=autoencoder(blocks=EIGHTH),
        text_encoder=language(t.GemmaModel, t.GemmaConfig, tokenizer), tokenizer=tokenizer,
    )  # fmt: skip
    return pipeline, {}


@family
def lumina2():
    tokenizer = character_tokenizer()
    transformer = d.Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=[4, 2, 2], axes_lens=[600, 64, 64], cap_feat_dim=16,
    )  # fmt: skip
    pipeline = d.Lumina2Pipeline(
        transformer=transformer, scheduler=d.FlowMatchEulerDiscreteScheduler(), tokenizer=tokenizer,
        vae=autoencoder(blocks=EIGHTH, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=language(t.Gemma2Model, t.Gemma2Config, tokenizer),
    )  # fmt: skip
    return pipeline, {"max_sequence_length": 400}


@family
def kandinsky_2_2():
    vision = t.CLIPVisionConfig(
        hidden_size=32, image_size=32, projection_dim=32, intermediate_size=37, num_attention_heads=4,
        num_hidden_layers=1, patch_size=8,
    )  # fmt: skip
    denoiser = unet(
        out_channels=8, addition_embed_type="image", encoder_hid_dim=32, encoder_hid_dim_type="image_proj",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), attention_head_dim=4,
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), resnet_time_scale_shift="scale_shift",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )  # fmt: skip
    pipeline = d.KandinskyV22CombinedPipeline(
        unet=denoiser, scheduler=d.DDIMScheduler(), movq=movq(),
        prior_prior=d.PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1, num_embeddings=24
        ),
        prior_image_encoder=t.CLIPVisionModelWithProjection(vision).eval(),
        prior_text_encoder=clip_text(t.CLIPTextModelWithProjection), prior_tokenizer=clip_tokenizer(),
        prior_scheduler=d.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        ),
        prior_image_processor=t.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
    )  # fmt: skip
    return pipeline, {"arguments": {"prior_num_inference_steps": 2}, **dict.fromkeys(SIZE, 64)}


@family
def kandinsky_3():
    text_encoder, tokenizer = t5()
    denoiser = d.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=32,
    )  # fmt: skip
    pipeline = d.Kandinsky3Pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=denoiser,
        scheduler=d.DDPMScheduler(),
        movq=movq((32, 32, 32, 32)),
    )
    return pipeline, dict.fromkeys(SIZE, 64)


@family
def qwen_image():
    tokenizer = character_tokenizer()
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = t.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "rope_parameters": rope,
            "max_position_embeddings": 2048,
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
            "patch_size": 8, "fullatt_block_indexes": [0],
        },
    )  # fmt: skip
    vae = d.AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    transformer = d.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    pipeline = d.QwenImagePipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(), vae=vae, tokenizer=tokenizer, transformer=transformer,
        text_encoder=t.Qwen2_5_VLForConditionalGeneration(config).eval(),
    )  # fmt: skip
    return pipeline, {"guidance_argument": "true_cfg_scale", "negative_prompt": " ", "max_sequence_length": 400}


@family
def z_image():
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    transformer = d.ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[512, 32, 32],
    )  # fmt: skip
    pipeline = d.ZImagePipeline(
        scheduler=d.FlowMatchEulerDiscreteScheduler(), transformer=transformer, tokenizer=tokenizer,
        vae=autoencoder(16, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=language(t.Qwen3Model, t.Qwen3Config, tokenizer),
    )  # fmt: skip
    return pipeline, {"max_sequence_length": 128}
