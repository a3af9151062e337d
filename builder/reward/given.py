"""Checks of a reward model's inputs that need no loaded model."""

from cyclepref.builder.reward.errors import RewardError, WrongType


def pair_count(images: int, texts: int) -> int:
    """The number of pairs that images and texts make: one goes with all of the others, or equally many go together in
    order.

    Raises:
        RewardError: if there are no images or texts, or several of both in different number.
    """
    count = max(images, texts)
    if not images or not texts or {images, texts} - {1, count}:
        raise RewardError(f"got {images} images and {texts} texts: give one image, one text, or as many of both")
    return count


def check_text(text: object) -> None:
    """Refuse a text that a tokenizer cannot read.

    Raises:
        WrongType: if it is not a text.
        RewardError: if it contains half a surrogate pair, which is not a character.
    """
    if not isinstance(text, str):
        raise WrongType(f"a text must be a str, got {type(text).__name__}: {text!r:.80}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RewardError(
            f"the text {text!a:.80} is not Unicode: it has a lone surrogate at character {error.start}, as from an "
            "argument or file that is not UTF-8: write it in UTF-8"
        ) from error
