"""The edit of caffe.proto: tables of files before and after, and of files that are refused."""

from __future__ import annotations

import pytest
from caffe_l1.common.errors import Refused
from caffe_l1.patch.naming import Naming
from caffe_l1.patch.payload import message_text
from caffe_l1.patch.proto_edit import insert, remove
from caffe_l1.patch.protoc import parse
from caffe_l1.patch.record import addition
from patch_support import CAFFE, PROTO

OURS = addition(Naming(), message_text(Naming()))
TEXT = OURS.text.decode()
FIELD = OURS.field.decode()
PLAIN = 'syntax = "proto2";\npackage caffe;\nmessage LayerParameter {\n  optional int32 a = 1;\n}\n'


@pytest.fixture
def reader(tmp_path):
    folder = tmp_path / "src/caffe/proto"
    folder.mkdir(parents=True)
    return lambda data: parse(data, folder)


def both_ways(text, reader):
    """The file with ours; asserts that taking it out again gives the same bytes."""
    data = text if isinstance(text, bytes) else text.encode()
    edited = insert(data, OURS, reader)
    assert remove(edited, OURS, reader) == data
    return edited.decode("latin-1") if isinstance(text, bytes) else edited.decode()


def layer(inside, before="", after=""):
    return f'syntax = "proto2";\npackage caffe;\n{before}message LayerParameter {{{inside}}}{after}'


EDITS = [
    # name, before, after
    ("on lines of its own", PLAIN, PLAIN[:-2] + f"  {FIELD}\n}}\n\n{TEXT}\n"),
    ("no line end at the end of the file", PLAIN[:-1], PLAIN[:-2] + f"  {FIELD}\n}}\n\n{TEXT}"),
    (
        "message on one line",
        layer(" optional int32 a = 1; "),
        layer(f" optional int32 a = 1;  {FIELD} ", after=f"\n\n{TEXT}"),
    ),
    ("empty message", layer(""), layer(f" {FIELD} ", after=f"\n\n{TEXT}")),
    (
        "remark behind the brace",
        layer("\n", after=" // } of LayerParameter\nmessage B {}\n"),
        layer(f"\n  {FIELD}\n", after=f" // }} of LayerParameter\n\n{TEXT}\nmessage B {{}}\n"),
    ),
    (
        "another message on the same line",
        layer("\n", after=" message B {}\n"),
        layer(f"\n  {FIELD}\n", after=f"\n\n{TEXT} message B {{}}\n"),
    ),
    (
        "indented by tabs",
        layer("\n\toptional int32 a = 1;\n\t\toptional int32 b = 2;\n"),
        layer(
            f"\n\toptional int32 a = 1;\n\t\toptional int32 b = 2;\n\t\t{FIELD}\n",
            after=f"\n\n{TEXT}",
        ),
    ),
    (
        "tabs in front of the brace",
        layer("\toptional int32 a = 1;\t"),
        layer(f"\toptional int32 a = 1;\t {FIELD} ", after=f"\n\n{TEXT}"),
    ),
]


@pytest.mark.parametrize("before, after", [e[1:] for e in EDITS], ids=[e[0] for e in EDITS])
def test_message_and_field_go_in_where_protoc_says(before, after, reader):
    assert both_ways(before, reader) == after


BRACES = [
    ("nested messages", layer("\n message A { message B { } }\n optional A a = 1;\n")),
    ("a brace in a comment", layer("\n /* } */ // }\n /* enum X {\n */ optional int32 a = 1;\n")),
    ("a brace in a string", layer('\n optional string a = 1 [default = "}"];\n')),
    ("a quote in a comment", layer("\n // don't }\n optional int32 a = 1;\n")),
    ("a group", layer("\n optional group G = 1 { optional int32 x = 1; }\n")),
    ("a oneof", layer("\n oneof o { int32 x = 1; int32 y = 2; }\n")),
    ("an empty statement", layer("\n;\n", after=";\n")),
    ("LayerParameter in a comment", layer("\n", before="// message LayerParameter {\n")),
    ("V1LayerParameter first", layer("\n", before="message V1LayerParameter { }\n")),
    ("a nested LayerParameter", layer("\n", before="message A { message LayerParameter {} }\n")),
    ("no syntax line", PLAIN.split("\n", 1)[1]),
    ("options and services", layer("\n", before="option java_package = \"x\";\nservice S {}\n")),
    ("a message named as our field", layer("\n", before="message l1_loss_param {}\n")),
    ("an extension range", layer("\n extensions 2000 to max;\n")),
    ("a reserved range", layer("\n reserved 5, 1000 to 1700, 1702 to max;\n")),
]


@pytest.mark.parametrize("before", [b[1] for b in BRACES], ids=[b[0] for b in BRACES])
def test_what_looks_like_a_brace_misleads_nobody(before, reader):
    assert FIELD in both_ways(before, reader)


def test_crlf_lines_get_crlf_neighbours(reader):
    after = both_ways(PLAIN.replace("\n", "\r\n"), reader)
    assert after == (PLAIN[:-2] + f"  {FIELD}\n}}\n\n{TEXT}\n").replace("\n", "\r\n")


def test_mixed_line_ends_follow_the_line_in_front(reader):
    text = PLAIN.replace("= 1;\n", "= 1;\r\n")
    assert f"= 1;\r\n  {FIELD}\r\n}}\r\n\r\n" in both_ways(text, reader)


def test_a_byte_order_mark_stays(reader):
    assert both_ways(b"\xef\xbb\xbf" + PLAIN.encode(), reader).startswith("\xef\xbb\xbf")


def test_a_latin_1_letter_in_a_comment_stays(reader):
    text = PLAIN.encode().replace(b"= 1;", b"= 1; // na\xefve")
    assert "na\xefve" in both_ways(text, reader)


def test_caffes_own_file_is_edited_and_restored(reader):
    both_ways((CAFFE / PROTO).read_bytes(), reader)


def test_what_was_edited_elsewhere_stays_on_removal(reader):
    edited = insert(PLAIN.encode(), OURS, reader)
    edited = edited.replace(OURS.field + b"\n", OURS.field + b"\n  optional int32 late = 9;\n")
    edited = b"// my remark\n" + edited + b"message Mine {}\n"
    rest = remove(edited, OURS, reader)
    assert b"late = 9" in rest and b"my remark" in rest and b"Mine" in rest
    assert b"L1Loss" not in rest


REFUSED = [
    ("number taken", layer(" optional int32 a = 1701;"), "field number 1701 is taken by a", 3),
    ("number reserved", layer("\n reserved 1000 to 1800;\n"), "1701 is reserved", 4),
    ("number extended", layer("\n extensions 1000 to max;\n"), "1701 is kept for extensions", 4),
    ("number in a oneof", layer("\n oneof o { int32 b = 1701; }\n"), "taken by b", 4),
    ("name reserved", layer('\n reserved "l1_loss_param";\n'), "reserves the name", 3),
    ("name taken by a field", layer(" optional int32 l1_loss_param = 1;"), "l1_loss_param is", 3),
    ("name taken by a oneof", layer("\n oneof l1_loss_param { int32 b = 2; }\n"), "param is", 4),
    ("message taken", layer("", before="message L1LossParameter {}\n"), "L1LossParameter is", 3),
    ("enum taken", layer("", before="enum L1LossParameter { A = 0; }\n"), "L1LossParameter is", 3),
    ("nested type hides ours", layer("\n message L1LossParameter {}\n"), "L1LossParameter is", 4),
    ("another package", PLAIN.replace("caffe", "coffee"), "package is 'coffee'", 0),
    ("no LayerParameter", "package caffe;\nmessage A {}\n", "no message LayerParameter", 0),
    ("broken file", PLAIN.replace("= 1;", "= ;"), "protoc refuses this file", 4),
    ("unknown import", 'import "nowhere.proto";\n' + PLAIN, "protoc refuses this file", 0),
    ("stray letter", PLAIN + "\xe9\n", "protoc refuses this file", 6),
    ("proto3", PLAIN.replace("proto2", "proto3"), "protoc refuses this file", 0),
    ("empty file", "", "package is ''", 0),
]


@pytest.mark.parametrize(
    "text, problem, line", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused_with_the_line(text, problem, line, reader):
    with pytest.raises(Refused) as caught:
        insert(text.encode(), OURS, reader)
    assert problem in caught.value.problem
    assert caught.value.file == PROTO
    if line:
        assert caught.value.line == line


EDITED_INSIDE = [
    (b"BATCHMEAN = 0;", b"BATCHMEAN = 0; // mine", "the message"),
    (b"// e itself", b"// e  itself", "a comment of the message"),
    (b"l1_loss_param = 1701;", b"l1_loss_param = 1701 [deprecated = true];", "the field"),
    (b"  optional L1LossParameter", b"  /* mine */ optional L1LossParameter", "before the field"),
    (b"param = 1701;\n", b"param = 1701; // mine\n", "behind the field"),
]


@pytest.mark.parametrize(
    "old, new", [e[:2] for e in EDITED_INSIDE], ids=[e[2] for e in EDITED_INSIDE]
)
def test_an_edit_inside_our_lines_is_refused_with_its_line(old, new, reader):
    edited = insert(PLAIN.encode(), OURS, reader)
    assert edited.count(old) == 1
    line = edited[: edited.index(old)].count(b"\n") + 1
    with pytest.raises(Refused) as caught:
        remove(edited.replace(old, new), OURS, reader)
    assert abs(caught.value.line - line) <= 1
    assert "edited here" in caught.value.problem
