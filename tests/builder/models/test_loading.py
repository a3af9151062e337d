"""What a model cannot do is said before it runs, in one line."""

import pytest
import tiny_captioners
import tiny_painters
import torch
from test_families_captioners import IMAGES, captioner_of
from tiny_captioners import save

from cyclepref.builder.catalog.catalog import CAPTIONERS, PAINTERS
from cyclepref.builder.catalog.resolve import model_spec
from cyclepref.builder.models import load_model
from cyclepref.builder.models.loading import ModelError, check_fits, spread
from cyclepref.schemas.recipe import ModelChoice, RecipeError
from cyclepref.schemas.specs import QUESTION, CaptionerSpec, ModelSpec, PainterSpec


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("blip", {"prompt_style": "chat", "prompt": "a"}, "no chat template: set prompt_style to prefix or none"),
        ("blip", {"quantization_config": {"load_in_4bit": True}}, "package is missing.*pip install -U bitsandbytes"),
        ("blip", {"quantization_config": {"quant_method": "none"}}, "Unknown quantization type, got none"),
        ("blip", {"attention": "fast"}, "cannot load .*Specified `attn_implementation"),
    ],
)
def test_a_setting_that_a_captioner_cannot_follow_is_refused(family, settings, message, tmp_path):
    with pytest.raises(ModelError, match=message) as error:
        captioner_of(family, tmp_path, **settings)
    assert "\n" not in str(error.value), "Ray shows the last line of an error"


def test_a_repo_that_is_absent_or_gated_while_offline_is_explained():
    with pytest.raises(ModelError, match="x: cannot load nobody/nothing as a captioner: OSError"):
        load_model(CaptionerSpec(name="x", repo="nobody/nothing"))
    with pytest.raises(ModelError, match="x: cannot load nobody/nothing as a text-to-image"):
        load_model(PainterSpec(name="x", repo="nobody/nothing", steps=1, guidance=0, width=8, height=8))


def test_a_folder_of_the_other_kind_is_explained(tmp_path):
    repo, _ = save("blip", tmp_path)
    with pytest.raises(ModelError, match=r"cannot load .* as a text-to-image: .*model_index\.json"):
        load_model(PainterSpec(name="x", repo=repo, steps=1, guidance=0, width=8, height=8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "settings.dtype: must be float32, bfloat16 or float16, got 'int8'"),
        ({"prompt_style": "none"}, "prompt_style none never reads the prompt"),
        ({"prompt_style": "prefix", "prompt": ""}, "prompt_style prefix needs a prompt"),
        ({"evidence": "tested"}, "settings.evidence: belongs to the model and cannot be set"),
    ],
)
def test_a_wrong_setting_is_found_before_anything_is_loaded(settings, message):
    with pytest.raises(RecipeError, match=message):
        model_spec(ModelChoice(model="llava-1.5-7b", settings=settings), "captioner")


def test_a_chat_without_a_question_asks_the_papers():
    assert model_spec(ModelChoice(model="org/chatty"), "captioner").prompt == QUESTION


class Card:
    """What torch says of a GPU with a given memory in bytes."""

    def __init__(self, memory: float):
        self.total_memory = memory


@pytest.fixture
def one_gpu_of_24_gb(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: Card(24e9))


@pytest.mark.usefixtures("one_gpu_of_24_gb")
def test_a_model_larger_than_the_gpu_is_refused_before_it_is_read():
    large = CaptionerSpec(name="large", repo="org/large", parameters=13_000_000_000, dtype="float16")
    with pytest.raises(ModelError, match=r"about 31.2 GB needed in float16 .*the GPU has 24.0 GB"):
        load_model(large)
    check_fits(large.model_copy(update={"num_gpus": 2}))
    check_fits(large.model_copy(update={"quantization_config": {"load_in_4bit": True}}))
    painter = PainterSpec(
        name="p", repo="o/p", steps=1, guidance=0, width=8, height=8, parameters=20_000_000_000, dtype="float16"
    )
    with pytest.raises(ModelError, match="48 GB needed"):
        check_fits(painter)
    check_fits(painter.model_copy(update={"cpu_offload": "model"}))


@pytest.mark.usefixtures("one_gpu_of_24_gb")
def test_a_gpu_without_bfloat16_is_told():
    with pytest.raises(ModelError, match="Old GPU has no bfloat16: set dtype to float16"):
        check_fits(CaptionerSpec(name="x", repo="o/x", dtype="bfloat16"))


def test_several_gpus_spread_a_captioner_and_leave_its_identity():
    spec = CaptionerSpec(name="x", repo="o/x")
    wide = spec.model_copy(update={"num_gpus": 2, "device_map": "balanced"})
    assert (spread(spec), spread(spec.model_copy(update={"num_gpus": 2})), spread(wide)) == (None, "auto", "balanced")
    assert spec.identity() == wide.identity()
    for change in ({"attention": "eager"}, {"quantization_config": {"load_in_8bit": True}}, {"dtype": "float16"}):
        assert spec.model_copy(update=change).identity() != spec.identity()


def test_a_device_map_loads_a_model_through_accelerate(tmp_path):
    captioner = captioner_of("llava", tmp_path, device_map="auto")
    assert len(captioner.caption(IMAGES[:2], [None, None])) == 2


def test_every_row_of_the_catalog_says_what_it_needs():
    for spec in (row for row in [*CAPTIONERS, *PAINTERS] if isinstance(row, ModelSpec)):
        assert spec.licence, spec.name
        if spec.evidence != "shipped":
            assert spec.memory_gb is not None, spec.name
            assert not spec.trust_remote_code, spec.name


# Which tiny architecture stands for which rows: a row is "tested" for no other reason.
STANDS_FOR = {
    "blip": "blip-", "git": "git-", "blip2_opt": "blip2-opt", "blip2_flan_t5": "blip2-flan", "florence2": "florence-",
    "instructblip_flan_t5": "instructblip-flan", "instructblip_vicuna": "instructblip-vicuna", "gemma3": "gemma-3",
    "paligemma": "paligemma", "llava": "llava-1.5", "llava_next_mistral": "llava-1.6-mistral",
    "llava_next_llama": ("llava-1.6-vicuna", "llava-1.6-34b"), "llava_onevision": "llava-onevision",
    "internvl": "internvl3", "qwen2_vl": "qwen2-vl", "qwen2_5_vl": "qwen2.5-vl", "qwen3_vl": "qwen3-vl",
    "idefics3": ("idefics3", "smolvlm"), "stable_diffusion": ("sd-1.5", "sd-2.1"), "stable_diffusion_xl": "sdxl",
    "stable_diffusion_3": ("sd3-", "sd3.5"), "flux": "flux", "pixart_sigma": "pixart", "sana": "sana",
    "hunyuan_dit": "hunyuan", "lumina": "lumina-next", "lumina2": "lumina-2", "kandinsky_2_2": "kandinsky-2.2",
    "kandinsky_3": "kandinsky-3", "qwen_image": "qwen-image", "z_image": "z-image",
}  # fmt: skip


def test_a_row_is_called_tested_only_if_its_architecture_is():
    for spec in (row for row in [*CAPTIONERS, *PAINTERS] if isinstance(row, ModelSpec)):
        if spec.evidence == "tested":
            families = tiny_captioners.FAMILIES if spec.kind == "captioner" else tiny_painters.FAMILIES
            assert any(name in families and spec.name.startswith(names) for name, names in STANDS_FOR.items()), (
                spec.name
            )
