"""What a reward model is given, looked at before anything is loaded."""

from cyclepref.builder.reward.errors import RewardError, WrongType


def pair_count(images: int, texts: int) -> int:
    """How many pairs so many images and texts are: one goes with all of the others, or as many with as many, in order.

    Raises:
        RewardError: if there are none, or several images and another number of texts.
    """
    count = max(images, texts)
    if not images or not texts or {images, texts} - {1, count}:
        raise RewardError(f"got {images} images and {texts} texts: give one image, one text, or as many of both")
    return count


def check_text(text: object) -> None:
    """Refuse what no tokenizer reads.

    Raises:
        WrongType: if it is no text.
        RewardError: if it has half a surrogate pair, which is no character.
    """
    if not isinstance(text, str):
        raise WrongType(f"a text must be a str, got {type(text).__name__}: {text!r:.80}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RewardError(
            f"the text {text!a:.80} is not Unicode: it has a lone surrogate at character {error.start} (an argument or "
            "file that is not UTF-8 gives such): write it in UTF-8"
        ) from error
