"""What TRL trains in tests: a text model and a vision-language model, tiny and with random weights."""

import torch
import transformers as t
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

TURN = "{% for m in messages %}{{ m['role'] }}: "
ANSWER = "{% if add_generation_prompt %}assistant: {% endif %}"
TEXT = TURN + "{{ m['content'] }}</s>{% endfor %}" + ANSWER
TYPED = (
    TURN + "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}</s>{% endfor %}" + ANSWER
)
WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokenizer(template: str, **roles: str) -> t.PreTrainedTokenizerFast:
    """A token a character."""
    tokens = ["<pad>", "<unk>", "</s>", *roles.values(), *map(chr, range(10, 127))]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    made = t.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", extra_special_tokens=roles
    )
    made.chat_template = template
    return made


def text_model(head: str = "causal") -> tuple[t.PreTrainedModel, t.PreTrainedTokenizerFast]:
    """A Llama that writes ("causal") or rewards ("reward")."""
    words = tokenizer(TEXT)
    config = t.LlamaConfig(vocab_size=len(words), num_labels=1, pad_token_id=0, eos_token_id=2, **WIDTHS)
    torch.manual_seed(0)
    kind = t.LlamaForCausalLM if head == "causal" else t.LlamaForSequenceClassification
    return kind(config), words


def vision_model() -> tuple[t.PreTrainedModel, t.LlavaProcessor]:
    """A LLaVA that sees 32x32 pixels."""
    words = tokenizer(TYPED, image_token="<image>")
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**WIDTHS, image_size=32, patch_size=8, projection_dim=32),
        text_config=t.LlamaConfig(vocab_size=len(words), pad_token_id=0, eos_token_id=2, **WIDTHS),
        image_token_id=words.image_token_id, image_seq_length=16,
    )  # fmt: skip
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = t.LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TYPED,
    )  # fmt: skip
    torch.manual_seed(0)
    return t.LlavaForConditionalGeneration(config), processor
