"""The one base of errors that a user can mend; the command line shows their message without a traceback."""


class CyclePrefError(Exception):
    """What happened, the rule it broke, and the way out, in one message."""


class Unavailable(CyclePrefError, RuntimeError):
    """What a model needs in order to run is not there (its server, its key, its client): no row is to blame, so the
    build stops rather than fail every row."""
