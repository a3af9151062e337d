"""The base class of all errors that a user can fix, and a function that makes text from outside safe to show.

The command line shows an error's message without a traceback.
"""

import unicodedata

# Our messages contain line breaks of their own. Text from outside that must not add any is shown with keep="".
KEPT = "\n\t"
# Unicode categories: control characters, invisible formatting (such as right-to-left overrides), lone surrogates.
HIDDEN = {"Cc", "Cf", "Cs"}
# Persian words and family emoji are written with these.
JOINERS = "\u200c\u200d"


class CyclePrefError(Exception):
    """What happened, the rule it broke, and the way out, in one message."""


class Unavailable(CyclePrefError, RuntimeError):
    """Something that a model needs in order to run is missing (its server, key or client). No row is to blame, so the
    build stops instead of recording every row as failed."""


def visible(text: str, keep: str = KEPT) -> str:
    """Text that is safe to print: characters that would move a terminal's cursor, change its colours or reverse the
    reading order are written as escapes.

    >>> visible("red\\x1b[31m")
    'red\\\\x1b[31m'
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in keep + JOINERS and unicodedata.category(character) in HIDDEN
        else character
        for character in text
    )
