"""Recognise a Caffe source checkout, and what in it differs from the others."""

import os
import re
from pathlib import Path
from typing import Iterator, NamedTuple

from .errors import Refused, WrongUsage

PROTO = "src/caffe/proto/caffe.proto"
LAYER_HEADER = "include/caffe/layer.hpp"
BLOB_HEADER = "include/caffe/blob.hpp"
BLOB_SOURCE = "src/caffe/blob.cpp"
LANDMARKS = (PROTO, LAYER_HEADER, BLOB_HEADER, BLOB_SOURCE,
             "include/caffe/layer_factory.hpp", "src/caffe/net.cpp")
PYCAFFE = "python/caffe/_caffe.so"
# make itself does not see that pycaffe includes caffe.pb.h; told that its source is new, it does.
MAKE_PYCAFFE = ["make", "-W", "python/caffe/_caffe.cpp", "pycaffe"]
NESTED_LOSS_HEADER = "caffe/layers/loss_layer.hpp"
FLAT_LOSS_HEADER = "caffe/loss_layers.hpp"  # before 2016, one header for all losses

COMMENT_OR_STRING = re.compile(
    rb"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)


class CaffeTree(NamedTuple):
    root: Path
    loss_header: str
    has_normalization: bool
    has_empty_blobs: bool  # else Blob::Reshape divides by the size of an empty one
    has_shapes: bool  # else, before March 2015, a Blob has four axes and no shape() to ask
    has_param_str: bool  # else, before the summer of 2015, python_param holds no options
    crlf: bool

    def path(self, relative: str) -> Path:
        return self.root / relative


def open_tree(folder: str) -> CaffeTree:
    """The checkout in this folder; WrongUsage or Refused where it is not one that we know."""
    if not folder:
        raise WrongUsage("the name of the folder is empty", "give a Caffe source checkout")
    root = Path(os.path.abspath(folder))
    for landmark in LANDMARKS:
        if not (root / landmark).is_file():
            raise WrongUsage(f"not a Caffe source checkout: {landmark} is missing",
                             "give the folder that holds Caffe's Makefile, src/ and include/",
                             folder)
    return tree_of(root, *map(code_of, (root / PROTO, root / BLOB_SOURCE)))


def tree_of(root: Path, messages: bytes, blob: bytes = b"") -> CaffeTree:
    """By its headers, its messages in caffe.proto or caffe.pb.h, and blob.cpp where that is."""
    check_interface(root)
    header = find_loss_header(root)
    return CaffeTree(
        root=root,
        loss_header=header,
        has_normalization=b"NormalizationMode" in messages,
        has_empty_blobs=b"count_ != 0" in blob,
        has_shapes=bool(re.search(rb"\bshape\s*\(\s*\)\s*const", code_of(root / BLOB_HEADER))),
        has_param_str=b"param_str" in messages,
        crlf=b"\r\n" in (root / "include" / header).read_bytes(),
    )


def check_interface(root: Path) -> None:
    """Our layer is template <typename Dtype>; forks with other parameters need another layer."""
    code = code_of(root / LAYER_HEADER)
    found = re.search(rb"template\s*<([^>]*)>\s*class\s+Layer\b", code)
    parameters = re.findall(rb"(?:typename|class)\s+(\w+)", found.group(1)) if found else []
    if parameters != [b"Dtype"]:
        seen = ", ".join(p.decode("ascii", "replace") for p in parameters) or "no template"
        raise Refused(f"layers here are <{seen}>, not <Dtype> as this layer needs",
                      "use a Caffe with <Dtype> layers, or the Python layer, which needs no patch",
                      LAYER_HEADER, line_of(code, found.start(1)) if found else 1)


def find_loss_header(root: Path) -> str:
    for header in (NESTED_LOSS_HEADER, FLAT_LOSS_HEADER):
        if (root / "include" / header).is_file():
            return header
    raise Refused(f"neither {NESTED_LOSS_HEADER} nor {FLAT_LOSS_HEADER} is there",
                  "restore Caffe's headers", "include/caffe")


def find_registration(root: Path, type_name: str) -> "Iterator[tuple[str, int]]":
    """The file and line where the tree registers this layer type, whatever the file is called."""
    name = re.escape(type_name.encode())
    pattern = re.compile(
        rb"REGISTER_LAYER_(?:CLASS|CREATOR)\s*\(\s*%s\s*[,)]"
        rb"|(?:AddCreator|LayerRegisterer\s*<[^>]*>\s*\w+)\s*\(\s*\"%s\"" % (name, name)
    )
    for path in sorted((root / "src").rglob("*.c*")):
        if path.suffix in (".cpp", ".cu", ".cc") and path.is_file() and name in path.read_bytes():
            code = code_of(path)
            for match in pattern.finditer(code):
                yield path.relative_to(root).as_posix(), line_of(code, match.start())


def code_of(path: Path) -> bytes:
    """Its bytes with comments blanked, so that lines and offsets stay."""

    def blank(match: "re.Match[bytes]") -> bytes:
        text = match.group(0)
        return re.sub(rb"[^\n]", b" ", text) if text.startswith(b"/") else text

    return COMMENT_OR_STRING.sub(blank, path.read_bytes())


def line_of(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1
