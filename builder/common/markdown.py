"""Text of others in Markdown and HTML: what it says is shown, what it would do is not done."""

import re

from cyclepref.schemas.errors import visible


def escape(text: str) -> str:
    """Text that is only text in Markdown (GitHub's bare links included), in HTML, and in a table's cell."""
    text = visible(" ".join(text.split()), keep="").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)
    # What would become a link by itself, or a mention of somebody.
    return re.sub(r"://|(?i:www)\.|@", lambda found: "".join(f"&#{ord(c)};" for c in found[0]), text)
