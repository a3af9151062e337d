"""Untrusted text inside Markdown and HTML: it is shown literally and cannot make links, mentions or markup."""

import re

from cyclepref.schemas.errors import visible


def escape(text: str) -> str:
    """Escape a text so that Markdown, HTML and a table's cell show it literally; GitHub makes no links of it either."""
    text = visible(" ".join(text.split()), keep="").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)
    # Addresses that GitHub turns into links, and mentions of people.
    return re.sub(r"://|(?i:www)\.|@", lambda found: "".join(f"&#{ord(c)};" for c in found[0]), text)
