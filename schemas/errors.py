"""The one base of errors that a user can mend; the command line shows their message without a traceback."""


class CyclePrefError(Exception):
    """What happened, the rule it broke, and the way out, in one message."""
