"""What the kit puts into a tree: the files of caffe_patch/, made to fit the tree."""

import re
from pathlib import Path

from .. import HOME
from ..common.tree import CaffeTree
from .naming import Naming, rename

PATCH = HOME / "caffe_patch"
FOLDERS = ("include/caffe/layers", "include/caffe/util",
           "src/caffe/layers", "src/caffe/util", "src/caffe/test")
MESSAGE = "src/caffe/proto/l1_loss_parameter.proto"
# The order in which they are put in: nothing is compiled before what it includes is there.
ORDER = (".hpp", ".cu", ".cpp")


def message_text(naming: Naming, patch: Path = PATCH) -> bytes:
    """The message with its comments, lines ending in \\n, no line end at the end."""
    text = (patch / MESSAGE).read_bytes().replace(b"\r\n", b"\n")
    return rename(text.partition(b"package caffe;")[2].strip(), naming)


def source_files(tree: CaffeTree, naming: Naming, patch: Path = PATCH) -> "dict[str, bytes]":
    """The path in the tree and the bytes of every source file."""
    paths = [p for p in patch.rglob("*") if p.suffix in ORDER and p.is_file()]
    paths.sort(key=lambda p: ("test" in p.name, ORDER.index(p.suffix), p.name))
    names = [rename(p.relative_to(patch).as_posix().encode(), naming).decode() for p in paths]
    texts = [fit(rename(p.read_bytes(), naming), tree, naming) for p in paths]
    return dict(zip(names, texts))


def may_be_ours(path: str, naming: Naming) -> bool:
    """Whether some version of the kit might put a file there under these names."""
    folder, _, name = path.rpartition("/")
    ours = rf"(?:test_)?{re.escape(naming.stem)}(?:_[a-z0-9_]+)?\.(?:hpp|cpp|cu)\Z"
    return folder in FOLDERS and re.match(ours, name) is not None


def fit(source: bytes, tree: CaffeTree, naming: Naming) -> bytes:
    """The marked block of #defines in the header says what differs between trees."""
    values = {name: str(int(has)) for name, has in tree._asdict().items()
              if name.startswith("has_")}
    values["base_header"] = f'"{tree.loss_header}"'
    for name, value in values.items():
        macro = f"{naming.stem}_{name}".upper()
        line = f"#define {macro} {value}".encode()
        source = re.sub(rb"(?m)^#define %s [^\r\n]*" % macro.encode(), line, source)
    source = source.replace(b"\r\n", b"\n")
    return source.replace(b"\n", b"\r\n") if tree.crlf else source
