"""The report of an unexpected error: one line on the screen, and the whole trace in a file."""

import os
import re
import tempfile
import traceback
from datetime import UTC, datetime

from cyclepref.builder import __version__
from cyclepref.schemas.errors import visible

# Names of environment variables whose values must not be written to files.
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
# Things that look like tokens, and the user in an address.
TOKENS = re.compile(r"\b(?:hf|sk|ghp|gho|xox[bp])[-_][A-Za-z0-9_-]{6,}|\bAKIA[0-9A-Z]{12,}|(?<=://)[^/\s@]+(?=@)")
# The word after "token", "password" and the like.
ANNOUNCED = re.compile(
    r"((?<![a-z])(?:token|key|secret|password|signature)['\"]?[=:]\s?['\"]?|bearer |basic )[^&\s'\",]+", re.IGNORECASE
)
SHORTEST_SECRET = 6
LONGEST_LINE = 300
MASK = "***"


def report(error: BaseException, command: str) -> str:
    """Write the trace of an error to a new file that only this user can read; returns the line to show."""
    trace = "".join(traceback.format_exception(error))
    told = (str(error).strip() or "no message").splitlines()[0]
    line = masked(f"{type(error).__name__}: {told}")[:LONGEST_LINE]
    head = f"cyclepref {__version__}, {datetime.now(UTC).isoformat(timespec='seconds')}\n{command}\n\n"
    try:
        number, path = tempfile.mkstemp(prefix="cyclepref-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(masked(head + trace))
    except OSError as problem:
        where = f"its trace could not be written ({problem.strerror}): -v shows it"
    else:
        where = f"the whole trace is in {path}"
    cause = "the system refused" if isinstance(error, OSError | MemoryError) else "this is a fault of CyclePref"
    return visible(f"error: {line} ({cause}; {where})")


def masked(text: str) -> str:
    """Text without tokens and without the values of variables that hold secrets."""
    secrets = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= SHORTEST_SECRET}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return ANNOUNCED.sub(rf"\1{MASK}", TOKENS.sub(MASK, text))
