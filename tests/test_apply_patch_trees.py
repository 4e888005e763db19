"""Trees other than BVLC's master, made from Debian's source: patched, built alone, tested.

Built alone means: the layer, its gtest and the few sources of Caffe they need, in the tree's own
flavour, without the rest of Caffe. Real trees are tried by try_trees.py; trees.md keeps the result.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable

import pytest
from build_alone import PASSED, build_alone, run
from caffe_l1.common.tree import open_tree
from caffe_l1.patch.naming import Naming
from caffe_l1.patch.payload import fit
from environment import REPO
from patch_support import CAFFE, PROTO, SOURCES, contents, edit, kit, make_checkout


def patch_build_test_revert(
    say: Callable,
    name: str,
    root: Path,
    out: Path,
    stem: str = "l1_loss",
    fixture: str = "L1LossLayerTest",
    options: tuple = (),
    more: tuple = (),
) -> None:
    """The whole life of the patch in a tree."""
    before = contents(root)
    folders = {path for path in root.rglob("*") if path.is_dir()}
    applied = kit("apply", root, *options)
    assert applied.code == 0, applied.err
    assert kit("status", root).code == 0
    tests = build_alone(root, stem, out, more)
    output = run([tests, f"--gtest_filter={fixture}*"])
    passed = int(PASSED.search(output).group(1))
    assert passed > 0
    assert not re.search(rf"^\[ RUN +\] (?!{fixture})", output, re.MULTILINE)
    reverted = kit("revert", root)
    assert reverted.code == 0, reverted.err
    assert contents(root) == before
    left = {path for path in root.rglob("*") if path.is_dir()} - folders
    assert {path.relative_to(root).parts[0] for path in left} == {".l1loss-kit"}
    say(f"{name}: applied, built alone, {passed} gtests passed, reverted clean")


# Making them


def flatten(root: Path) -> Path:
    """As in 2015: no include/caffe/layers/, one loss_layers.hpp, no NormalizationMode."""
    folder = root / "include/caffe/layers"
    losses = [(folder / f"{name}_layer.hpp").read_text() for name in ("loss", "euclidean_loss")]
    text = re.sub(r'#include "caffe/layers/.*\n', "", "".join(losses))
    (root / "include/caffe/loss_layers.hpp").write_text(text)
    for header in folder.iterdir():
        header.unlink()
    folder.rmdir()
    loss = root / "src/caffe/layers/loss_layer.cpp"
    edit(loss, b"caffe/layers/loss_layer.hpp", b"caffe/loss_layers.hpp")
    proto = root / PROTO
    text = proto.read_bytes()
    start, end = text.index(b"message LossParameter {"), text.index(b"// Messages that store")
    flat = b"message LossParameter {\n  optional int32 ignore_label = 1;\n"
    flat += b"  optional bool normalize = 2 [default = true];\n}\n\n"
    proto.write_bytes(text[:start] + flat + text[end:])
    return root


def with_its_own_l1loss(root: Path) -> Path:
    """As flownet2: another L1Loss with a message, a field and a class of the same names."""
    for folder, ending in (("include/caffe/layers", "hpp"), ("src/caffe/layers", "cpp")):
        text = (root / folder / f"euclidean_loss_layer.{ending}").read_text()
        text = text.replace("EuclideanLoss", "L1Loss").replace("EUCLIDEAN_LOSS", "L1LOSS")
        text = text.replace("euclidean_loss_layer", "l1loss_layer")
        (root / folder / f"l1loss_layer.{ending}").write_text(text)
    field = b"  optional ClipParameter clip_param = 148;\n"
    edit(root / PROTO, field, field + b"  optional L1LossParameter l1_loss_param = 151;\n")
    with open(str(root / PROTO), "ab") as file:
        file.write(b"\nmessage L1LossParameter {\n  optional bool normalize = 1;\n}\n")
    return root


def to_crlf(root: Path) -> Path:
    for path in [*(root / "src").rglob("*"), *(root / "include").rglob("*")]:
        if path.suffix in (".proto", ".hpp", ".cpp", ".cu", ".h"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return root


# Trying them


def test_a_flat_tree_of_2015_is_patched_built_and_reverted(tmp_path, say):
    root = flatten(make_checkout(tmp_path / "caffe"))
    patch_build_test_revert(say, "flat layout of 2015", root, tmp_path / "out")


def test_a_tree_with_its_own_l1loss_is_refused(tmp_path):
    root = with_its_own_l1loss(make_checkout(tmp_path / "caffe"))
    before = contents(root)
    result = kit("apply", root)
    assert result.code == 1
    assert re.match(r'src/caffe/layers/l1loss_layer\.cpp:\d+: .*"L1Loss"', result.err)
    assert "--type-name MyL1Loss --field-name my_l1_loss_param" in result.err
    assert kit("status", root).out.startswith("foreign (src/caffe/proto/caffe.proto:")
    assert contents(root) == before


NAMES = ("--type-name", "MyL1Loss", "--field-name", "my_l1_loss_param")


def test_ours_stands_beside_a_trees_own_l1loss_under_another_name(tmp_path, say):
    root = to_crlf(with_its_own_l1loss(make_checkout(tmp_path / "caffe")))
    theirs = ("src/caffe/layers/l1loss_layer.cpp",)
    patch_build_test_revert(
        say,
        "own L1Loss, CRLF; ours renamed",
        root,
        tmp_path / "out",
        "my_l1_loss",
        "MyL1LossLayerTest",
        NAMES,
        theirs,
    )


def test_a_renamed_layer_leaves_no_old_name_behind(tmp_path):
    root = make_checkout(tmp_path / "caffe")
    before = contents(root)
    kit("apply", root, *NAMES)
    new = sorted(set(contents(root)) - set(before))
    assert new == sorted(
        [
            "include/caffe/layers/my_l1_loss_layer.hpp",
            "include/caffe/util/my_l1_loss_simd.hpp",
            "src/caffe/layers/my_l1_loss_layer.cpp",
            "src/caffe/layers/my_l1_loss_layer.cu",
            "src/caffe/test/test_my_l1_loss_layer.cpp",
        ]
    )
    for path in new:
        text = (root / path).read_text()
        assert not re.search(r"(?<!my_)(?<!MY_)(?<!My)([lL]1_?[lL]oss|L1_LOSS)", text), path
    proto = (root / PROTO).read_text()
    assert "optional MyL1LossParameter my_l1_loss_param = 1701;" in proto
    assert kit("apply", root).out.startswith("already applied")
    result = kit("status", root, "--json").json
    assert (result["type_name"], result["field_name"]) == ("MyL1Loss", "my_l1_loss_param")


@pytest.mark.parametrize("name", ["my loss", "1Loss", "lower", "", "L1-Loss", "../x"])
def test_a_name_that_is_not_valid_is_wrong_usage(tmp_path, name):
    root = make_checkout(tmp_path / "caffe")
    result = kit("apply", root, "--type-name", name)
    assert result.code == 2
    assert result.err.startswith(f"{name!r} is not a valid type name; fix: ")
    assert kit("apply", root, f"--field-name={name}").code == (0 if name == "lower" else 2)


def test_the_source_these_trees_are_made_from_is_not_touched():
    assert not (CAFFE / ".l1loss-kit").exists()


BLOCK = b"""#define L1_LOSS_BASE_HEADER "x"
#define L1_LOSS_HAS_NORMALIZATION 7
#define L1_LOSS_HAS_EMPTY_BLOBS 7
#define L1_LOSS_HAS_SHAPES 7
#define L1_LOSS_HAS_PARAM_STR 7
"""


def test_the_block_of_the_header_is_that_of_the_trees_fields(tmp_path):
    header = (REPO / "caffe_patch" / SOURCES[0]).read_text()
    macros = set(re.findall(r"(?m)^#define L1_LOSS_(HAS_\w+) 1$", header))
    fields = open_tree(str(make_checkout(tmp_path / "caffe")))._asdict()
    assert macros == {name.upper() for name in fields if name.startswith("has_")}
    assert macros == set(re.findall(r"L1_LOSS_(HAS_\w+)", BLOCK.decode()))


def test_the_block_of_defines_says_what_differs_between_trees(tmp_path):
    new = make_checkout(tmp_path / "new")
    old = flatten(make_checkout(tmp_path / "old"))
    edit(old / "src/caffe/blob.cpp", b"if (count_ != 0) {", b"{")
    edit(old / "include/caffe/blob.hpp", b"& shape() const {", b"& axes() const {")
    edit(old / PROTO, b"optional string param_str = 3", b"optional string more = 3")
    assert fit(BLOCK, open_tree(str(new)), Naming()) == (
        b'#define L1_LOSS_BASE_HEADER "caffe/layers/loss_layer.hpp"\n'
        b"#define L1_LOSS_HAS_NORMALIZATION 1\n"
        b"#define L1_LOSS_HAS_EMPTY_BLOBS 1\n"
        b"#define L1_LOSS_HAS_SHAPES 1\n"
        b"#define L1_LOSS_HAS_PARAM_STR 1\n"
    )
    assert fit(BLOCK, open_tree(str(old)), Naming()) == (
        b'#define L1_LOSS_BASE_HEADER "caffe/loss_layers.hpp"\n'
        b"#define L1_LOSS_HAS_NORMALIZATION 0\n"
        b"#define L1_LOSS_HAS_EMPTY_BLOBS 0\n"
        b"#define L1_LOSS_HAS_SHAPES 0\n"
        b"#define L1_LOSS_HAS_PARAM_STR 0\n"
    )
