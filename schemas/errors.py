"""The one base of errors that a user can mend, and text from outside made safe to show.

The command line shows an error's message without a traceback.
"""

import unicodedata

# Line breaks of a message are ours; what comes from outside in it should have been quoted where it matters.
KEPT = "\n\t"
# Control characters, invisible formatting (right-to-left overrides among them), lone surrogates.
HIDDEN = {"Cc", "Cf", "Cs"}
# Persian words and family emoji are written with these.
JOINERS = "\u200c\u200d"


class CyclePrefError(Exception):
    """What happened, the rule it broke, and the way out, in one message."""


class Unavailable(CyclePrefError, RuntimeError):
    """What a model needs in order to run is not there (its server, its key, its client): no row is to blame, so the
    build stops rather than fail every row."""


def visible(text: str, keep: str = KEPT) -> str:
    """Text that a terminal only shows: characters that would move its cursor, recolour it or turn the reading order
    around stand there as escapes.

    >>> visible("red\\x1b[31m")
    'red\\\\x1b[31m'
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in keep + JOINERS and unicodedata.category(character) in HIDDEN
        else character
        for character in text
    )
