"""Writes the network's code as one file beside its weights, so that `AutoModel.from_pretrained(...,
trust_remote_code=True)` works without CyclePref."""

import ast
import inspect
from functools import cache
from pathlib import Path

from cyclepref.builder import __version__
from cyclepref.builder.reward import backbones, config, given, head, network, preprocess, weights
from cyclepref.builder.reward.backbones import blip, clip, dual, siglip, tower

FILE = "modeling_cyclepref_reward.py"
AUTO_MAP = {
    name: f"{Path(FILE).stem}.{made.__name__}"
    for name, made in (("AutoConfig", config.RewardConfig), ("AutoModel", network.RewardNetwork))
}
# In order: each file uses only those before it.
PARTS = (config, head, tower, dual, blip, clip, siglip, backbones, given, preprocess, weights, network)
OURS = ("cyclepref",)
HEAD = '''\
"""A CyclePref reward model for transformers, without CyclePref: code written beside the weights when they were saved.

`AutoModel.from_pretrained(folder_or_id, trust_remote_code=True)` runs it. Made by CyclePref {version} (MIT licence) of
its own files: do not edit.
"""

{imports}


class RewardError(ValueError):
    """A model, setting or argument with which no reward can be computed."""


class WrongType(TypeError):
    """An argument of the wrong type, where an image or a text is needed."""

{body}'''


def write_code(folder: Path) -> None:
    """Write the file; the config names it in `auto_map`."""
    (folder / FILE).write_text(code(), encoding="utf-8")


@cache
def code() -> str:
    """The content of the file: the parts' sources without their imports of one another."""
    imports: set[str] = set()
    bodies = []
    for part in PARTS:
        source = inspect.getsource(part)
        tree = ast.parse(source)
        found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        imports |= {ast.unparse(node) for node in found if not _ours(node)}
        dropped = {line for node in (tree.body[0], *found) for line in range(node.lineno, node.end_lineno + 1)}
        kept = [line for number, line in enumerate(source.splitlines(), 1) if number not in dropped]
        bodies.append("\n\n" + "\n".join(kept).strip("\n") + "\n")
    return HEAD.format(version=__version__, imports="\n".join(sorted(imports)), body="".join(bodies))


def _ours(node: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OURS
