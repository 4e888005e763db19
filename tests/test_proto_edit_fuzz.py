"""Any caffe.proto is either edited so that it differs by our message and field, or refused."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import mkdtemp

import pytest
from caffe_l1.common.errors import Refused
from caffe_l1.patch.naming import Naming
from caffe_l1.patch.payload import message_text
from caffe_l1.patch.proto_edit import insert, remove
from caffe_l1.patch.protoc import parse
from caffe_l1.patch.record import addition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patch_support import CAFFE, PROTO, contents, kit, make_small_checkout

OURS = addition(Naming(), message_text(Naming()))
FOLDER = Path(mkdtemp()) / "src/caffe/proto"
FOLDER.mkdir(parents=True)
FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


def read(data):
    return parse(data, FOLDER)


# Whole files, made of what is hard to edit

NAMES = st.sampled_from(["a", "b", "L1LossParameter", "l1_loss_param", "LayerParameter", "Zz"])
NUMBERS = st.one_of(
    st.integers(1, 20), st.sampled_from([1700, 1701, 1702, 6801, 18999, 20000, 536870911])
)
BLANKS = st.sampled_from(["", " ", "\t", "\n", "\n\n", " \t ", "  "])
COMMENTS = st.sampled_from(
    ["// }", "/* } */", "// message LayerParameter {", "/* { \n } */", "// \xef", '// "', "/*'*/"]
)
STRINGS = st.sampled_from(['"}"', "'{'", '"//"', '"/*"', r'"\""', '"\xe9"'])


@st.composite
def fields(draw):
    name, number = draw(NAMES), draw(NUMBERS)
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return f"optional string {name} = {number} [default = {draw(STRINGS)}];"
    if kind == 1:
        return f"oneof {draw(NAMES)} {{ int32 {name} = {number}; }}"
    if kind == 2:
        return f"reserved {number};"
    if kind == 3:
        return f"extensions {number} to {draw(st.sampled_from(['max', str(number)]))};"
    if kind == 4:
        return f"message {draw(NAMES)} {{ optional int32 {name} = {number}; }}"
    if kind == 5:
        return f"repeated group G{number} = {number} {{ optional int32 {name} = 1; }}"
    return f"optional int32 {name} = {number};"


def spaced(draw, parts):
    """The parts with blanks between them; a line comment ends its line."""
    text = ""
    for part in parts:
        text += draw(BLANKS) + part
        text += "\n" if "//" in part and '"' not in part.replace('// "', "") else draw(BLANKS)
    return text


@st.composite
def messages(draw, name):
    inside = draw(st.lists(st.one_of(fields(), COMMENTS), max_size=5))
    return f"message {name} {{{spaced(draw, inside)}}}"


@st.composite
def files(draw):
    parts = [draw(st.sampled_from(["package caffe;", "package caffe;", "package x;", ""]))]
    for _ in range(draw(st.integers(0, 3))):
        parts.append(draw(st.one_of(messages(draw(NAMES)), COMMENTS)))
    parts.append(draw(messages("LayerParameter")))
    for _ in range(draw(st.integers(0, 3))):
        parts.append(draw(st.one_of(messages(draw(NAMES)), COMMENTS)))
    text = spaced(draw, parts)
    head = draw(st.sampled_from(["", 'syntax = "proto2";', 'syntax = "proto3";']))
    data = (head + text).encode("latin-1")
    ends = draw(st.sampled_from([b"\n", b"\r\n", b"mixed"]))
    if ends == b"mixed":
        data = re.sub(rb"\n", lambda m: b"\r\n" if draw(st.booleans()) else b"\n", data)
    elif ends == b"\r\n":
        data = data.replace(b"\n", b"\r\n")
    bom = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"]))
    return bom + data


SEEN = {"edited": 0, "refused": 0}


def edited_or_refused(data):
    try:
        edited = insert(data, OURS, read)
    except Refused as refusal:
        SEEN["refused"] += 1
        assert refusal.problem and "\n" not in str(refusal)
        return None
    SEEN["edited"] += 1
    assert remove(edited, OURS, read) == data
    assert names_of(read(edited)) - names_of(read(data)) == ADDED
    assert names_of(read(data)) <= names_of(read(edited))
    return edited


def names_of(file):
    """Every name in a file with its number and type, in a way of the test's own."""
    found = set()

    def walk(message, prefix):
        path = f"{prefix}.{message.name}"
        found.add(path)
        found.update((path, f.name, f.number, f.type_name, f.default_value) for f in message.field)
        for enum in message.enum_type:
            found.update((f"{path}.{enum.name}", v.name, v.number) for v in enum.value)
        for inner in message.nested_type:
            walk(inner, path)

    for message in file.message_type:
        walk(message, "")
    return found


PLAIN = b"package caffe; message LayerParameter { }"
ADDED = names_of(read(insert(PLAIN, OURS, read))) - names_of(read(PLAIN))


def test_what_is_added_is_one_message_and_one_field():
    assert (".LayerParameter", "l1_loss_param", 1701, ".caffe.L1LossParameter", "") in ADDED
    others = [a for a in ADDED if "L1LossParameter" not in (a if isinstance(a, str) else a[0])]
    assert len(others) == 1


@FUZZ
@given(files())
def test_any_file_is_edited_by_exactly_ours_or_refused(data):
    edited_or_refused(data)


CAFFES = (CAFFE / PROTO).read_bytes()
TOKENS = [b"}", b"{", b"\t", b"/*", b"*/", b"//", b'"', b"'", b"\r\n", b"\xe9", b";", b"\x00"]


@FUZZ
@given(st.data())
def test_caffes_own_file_with_a_few_bytes_changed_is_edited_or_refused(data):
    text = CAFFES
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 40)))
        text = text[:start] + data.draw(st.sampled_from(TOKENS)) + text[end:]
    edited_or_refused(text)


@FUZZ
@given(st.binary(max_size=60), st.integers(0, len(CAFFES)))
def test_any_bytes_anywhere_are_edited_or_refused(junk, place):
    edited_or_refused(CAFFES[:place] + junk + CAFFES[place:])


def test_both_ends_of_the_fuzzing_were_met():
    if sum(SEEN.values()) < 100:
        pytest.skip("run the whole file")
    assert SEEN["edited"] > 50 and SEEN["refused"] > 50, SEEN


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz") / "caffe"
    make_small_checkout(root)
    return root


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=files())
def test_the_script_never_leaves_a_changed_file_or_a_traceback(checkout, data):
    (checkout / PROTO).write_bytes(data)
    before = contents(checkout)
    checked, applied = kit("check", checkout), kit("apply", checkout)
    assert checked.code == applied.code in (0, 1)
    if applied.code == 0:
        assert kit("status", checkout).code == 0
        assert kit("revert", checkout).code == 0
    assert contents(checkout) == before
