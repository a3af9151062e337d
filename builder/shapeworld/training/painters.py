"""The text-to-image pipelines: a UNet StableDiffusionPipeline and a flow-matching StableDiffusion3Pipeline.

Both work on the 16x16x4 latents of one small autoencoder, and train their text encoders too. One example in ten has an
empty prompt, as classifier-free guidance needs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from cyclepref.builder.shapeworld.grammar import describe
from cyclepref.builder.shapeworld.training import autoencoder, data, vocabulary
from cyclepref.builder.shapeworld.training.loop import Job, Progress, Run, fit

STEPS, BATCH = {"sd": 5000, "sd3": 12000}, 32
EARLY_SHARE = {"sd": 0.375, "sd3": 0.25}  # the share of the training after which the weaker sibling is saved
POOL, _POOL_BATCH = 40_000, 250
_DROPPED = 0.1
_SD_TEXT_WIDTH = 64
_SD3_TEXT_WIDTH, _SD3_WIDTH = 64, 96


class LatentPool:
    """Latents and prompts of 40,000 renders, made once and kept in the work folder; both pipelines are trained on it.

    Prompts are kept as the tokens of each tokenizer, the last row being the empty prompt's.
    """

    def __init__(self, run: Run):
        self.scale = autoencoder.load(run.work).config.scaling_factor
        path = run.work / "latents.pt"
        count = min(POOL, max(2 * _POOL_BATCH, run.steps(POOL)))
        kept = torch.load(path, weights_only=True) if path.exists() else {}
        encoder = autoencoder.encoder_hash(run.work)
        if kept.get("encoder") != encoder or len(kept["latents"]) != count:
            print(f"encoding {count} renders", flush=True)
            kept = _encode(run, count) | {"encoder": encoder}
            torch.save(kept, path)
        self.latents, self.tokens = kept["latents"], {"clip": kept["clip"], "t5": kept["t5"]}

    def batch(self, *tokenizers: str) -> list[torch.Tensor]:
        """Latents of unit size (32, 4, 16, 16) and tokens (32, 16) of each tokenizer, one prompt in ten empty."""
        chosen = torch.randint(len(self.latents), (BATCH,))
        latents = self.latents[chosen].float() * self.scale
        prompt = torch.where(torch.rand(BATCH) < _DROPPED, -1, chosen)
        return [latents, *(self.tokens[name][prompt] for name in tokenizers)]


@torch.no_grad()
def _encode(run: Run, count: int) -> dict[str, torch.Tensor]:
    encoder = autoencoder.load(run.work, torch.bfloat16).to(run.device, memory_format=torch.channels_last)
    latents, prompts = [], []
    for step in range(count // _POOL_BATCH):
        scenes = data.training_scenes("latents", step, _POOL_BATCH)
        pictures = data.pictures("latents", step, scenes).to(run.device, torch.bfloat16) * 2 - 1
        latents.append(encoder.encode(pictures).latents.float().cpu().half())
        prompts += map(describe, scenes)
    tokenizers = {"clip": vocabulary.clip_tokenizer(), "t5": vocabulary.t5_tokenizer()}
    tokens = {name: tokenize(tokenizer, [*prompts, ""]) for name, tokenizer in tokenizers.items()}
    return {"latents": torch.cat(latents), **tokens}


def tokenize(tokenizer, prompts: list[str]) -> torch.Tensor:
    """Prompt tokens (n, 16) as the pipelines make them."""
    length = vocabulary.PROMPT_TOKENS
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def text_config(width: int, layers: int) -> CLIPTextConfig:
    """A small CLIP text encoder over the world's words."""
    tokenizer = vocabulary.clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=vocabulary.PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_config() -> T5Config:
    """A T5 encoder of one layer over the world's words."""
    return T5Config(
        vocab_size=len(vocabulary.t5_tokenizer()),
        d_model=_SD3_TEXT_WIDTH,
        d_kv=_SD3_TEXT_WIDTH // 4,
        d_ff=2 * _SD3_TEXT_WIDTH,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
    )


class Diffusion(nn.Module):
    """A UNet with its text encoder, trained on the velocity (Salimans & Ho 2022, arXiv 2202.00512, section 2.4).

    The noise schedule ends in pure noise (Lin et al. 2023, arXiv 2305.08891); otherwise the few steps would leak
    brightness.
    """

    def __init__(self):
        super().__init__()
        self.text_encoder = CLIPTextModel(text_config(_SD_TEXT_WIDTH, 2))
        self.unet = UNet2DConditionModel(
            sample_size=autoencoder.LATENT_SIZE,
            in_channels=autoencoder.LATENT_CHANNELS,
            out_channels=autoencoder.LATENT_CHANNELS,
            block_out_channels=(48, 80),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=_SD_TEXT_WIDTH,
            attention_head_dim=4,  # the number of heads: diffusers' name for it in this class
            norm_num_groups=8,
        )
        self.scheduler = DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=False,
            set_alpha_to_one=True,
            steps_offset=1,
        )

    def loss(self, latents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the predicted velocity at uniform timesteps."""
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        velocity = self.scheduler.get_velocity(latents, noise, timesteps)
        text = self.text_encoder(tokens).last_hidden_state
        return (self.unet(noisy, timesteps, text).sample.float() - velocity).square().mean()

    def pipeline(self, vae) -> StableDiffusionPipeline:
        """The whole pipeline, as diffusers saves and loads it."""
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=vocabulary.clip_tokenizer(),
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class FlowMatching(nn.Module):
    """An SD3 transformer with its three text encoders, trained by rectified flow (Esser et al. 2024, arXiv 2403.03206).

    Trained with 16 T5 tokens: sample with `max_sequence_length=16`, not with the pipeline's default of 256.
    """

    def __init__(self):
        super().__init__()
        config = text_config(_SD3_TEXT_WIDTH // 2, 2)
        self.text_encoder = CLIPTextModelWithProjection(config)
        self.text_encoder_2 = CLIPTextModelWithProjection(config)
        self.text_encoder_3 = T5EncoderModel(t5_config())
        self.transformer = SD3Transformer2DModel(
            sample_size=autoencoder.LATENT_SIZE,
            patch_size=2,  # 64 patches, as many as the UNet attends over
            in_channels=autoencoder.LATENT_CHANNELS,
            out_channels=autoencoder.LATENT_CHANNELS,
            num_layers=2,
            attention_head_dim=32,
            num_attention_heads=_SD3_WIDTH // 32,
            joint_attention_dim=_SD3_TEXT_WIDTH,
            caption_projection_dim=_SD3_WIDTH,
            pooled_projection_dim=_SD3_TEXT_WIDTH,
            pos_embed_max_size=autoencoder.LATENT_SIZE // 2,
        )
        self.scheduler = FlowMatchEulerDiscreteScheduler()

    def loss(self, latents: torch.Tensor, tokens: torch.Tensor, t5_tokens: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the predicted flow, noise minus latents, at logit-normal noise levels."""
        noise = torch.randn_like(latents)
        sigma = torch.sigmoid(torch.randn(len(latents), 1, 1, 1, device=latents.device))
        encoded = [enc(tokens, output_hidden_states=True) for enc in (self.text_encoder, self.text_encoder_2)]
        words = torch.cat([out.hidden_states[-2] for out in encoded], dim=-1)
        t5_words = self.text_encoder_3(t5_tokens).last_hidden_state
        flow = self.transformer(
            hidden_states=(1 - sigma) * latents + sigma * noise,
            encoder_hidden_states=torch.cat([words, t5_words], dim=1),
            pooled_projections=torch.cat([out.text_embeds for out in encoded], dim=-1),
            timestep=sigma.flatten() * self.scheduler.config.num_train_timesteps,
        ).sample
        return (flow.float() - (noise - latents)).square().mean()

    def pipeline(self, vae) -> StableDiffusion3Pipeline:
        """The whole pipeline, as diffusers saves and loads it."""
        return StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=self.scheduler,
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=vocabulary.clip_tokenizer(),
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=vocabulary.clip_tokenizer(),
            text_encoder_3=self.text_encoder_3,
            tokenizer_3=vocabulary.t5_tokenizer(),
        )


def save(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline as `from_pretrained` reads it, weights in half precision; the modules keep their own."""
    single = folder.with_name(folder.name + ".single")
    pipeline.save_pretrained(single)
    type(pipeline).from_pretrained(single, dtype=torch.float16).save_pretrained(folder)
    shutil.rmtree(single)
    forget_place(folder)


def forget_place(folder: Path) -> None:
    """Remove from a pipeline's configurations the local path that its modules were loaded from."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def train(name: str, run: Run) -> None:
    """Train the pipeline `name` of STEPS to the end, saving it, and its early sibling on the way."""
    pool = LatentPool(run)
    torch.manual_seed({"sd": 5, "sd3": 6}[name])
    model = {"sd": Diffusion, "sd3": FlowMatching}[name]()

    def loss(model: Diffusion | FlowMatching, step: int) -> torch.Tensor:
        tokenizers = ("clip", "t5") if name == "sd3" else ("clip",)
        return model.loss(*(tensor.to(run.device) for tensor in pool.batch(*tokenizers)))

    def export(model: Diffusion | FlowMatching, progress: Progress) -> None:
        vae = autoencoder.load(run.work)
        save(model.pipeline(vae), run.out / name)
        early = run.out / f"{name}-early"
        if progress.step <= EARLY_SHARE[name] * progress.steps or not early.exists():
            save(model.pipeline(vae), early)
            (run.work / f"{name}-early.txt").write_text(f"{progress.step} {progress.seconds:.0f}\n")

    fit(Job(name, model, loss, export, STEPS[name], BATCH, lr=1e-3, exports=16), run)
