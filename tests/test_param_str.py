"""All that read param_str read the same: the Python layer, the plugin, and a native layer not."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess

import l1_loss_checks
import pytest
from caffe_l1.plugin import build, installed
from environment import REPO, seeing
from param_str_cases import ACCEPTED, CASES, REFUSED

NET = """
layer { name: "in" type: "DummyData" top: "x" top: "y" dummy_data_param {
  shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } } }
layer { name: "loss" type: "L1Loss" bottom: "x" bottom: "y" top: "loss" python_param {
  param_str: "%s" } }
"""
# Makes a net of each text on standard input, each in a process of its own, since Caffe aborts;
# prints what the process said on standard error, or an empty string where the net was made.
MAKE_NETS = """
import json, os, sys, tempfile
import caffe
if sys.argv[1:]:
    import l1_loss_plugin
    l1_loss_plugin.load(sys.argv[1])
for text in json.load(sys.stdin):
    with tempfile.NamedTemporaryFile("w") as net, tempfile.TemporaryFile() as said:
        net.write(text)
        net.flush()
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 2)
            caffe.Net(net.name, caffe.TRAIN)
            os._exit(0)
        failed = os.waitpid(child, 0)[1] != 0
        said.seek(0)
        print(json.dumps(said.read().decode("utf-8", "replace") if failed else ""))
"""


def c_escaped(text: str) -> str:
    """As a string of protobuf's text format."""
    return "".join(f"\\{byte:03o}" for byte in text.encode("utf-8"))


def make_nets(param_strs: list[str], *plugin: str, path: tuple = ()) -> list[str]:
    """What Caffe says of a net with each of these."""
    done = subprocess.run(
        ["python3", "-c", MAKE_NETS, *plugin], text=True, stdout=subprocess.PIPE, check=True,
        input=json.dumps([NET % c_escaped(text) for text in param_strs]),
        env=seeing(*path, REPO / "python_layer", GLOG_minloglevel="0"))
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def reader(tmp_path_factory) -> str:
    """A program around the plugin's reader; under AddressSanitizer, it sees random input."""
    folder = tmp_path_factory.mktemp("reader")
    caffe = installed.find()
    build.generate_messages(caffe, folder)
    sources = [REPO / "tests" / "param_str_reader.cpp", REPO / "scripts" / "caffe_l1" / "plugin" /
               "param_str.cpp", folder / build.package(caffe) / "l1_loss_parameter.pb.cc"]
    build.run(["g++", "-std=c++11", *build.compiler_flags(caffe, folder), "-g",
               "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
               *map(str, sources), "-lprotobuf", "-o", str(folder / "reader")])
    return str(folder / "reader")


def read_in_cpp(reader: str, param_strs: list[str]) -> list[l1_loss_checks.Options | str]:
    """The options that the plugin reads, or its error."""
    given = b"".join(b"%d\n%s" % (len(data), data) for data in
                     (text.encode("utf-8", "surrogatepass") for text in param_strs))
    output = subprocess.run([reader], input=given, stdout=subprocess.PIPE, check=True).stdout
    results = []
    while output:
        size, _, output = output.partition(b"\n")
        results.append(output[:int(size)].decode("utf-8"))
        output = output[int(size):]
    assert len(results) == len(param_strs)
    return [options(json.loads(said[1:])) if said.startswith("=") else said for said in results]


def options(given: dict) -> l1_loss_checks.Options:
    return l1_loss_checks.DEFAULTS._replace(**given)


def read_in_python(param_str: str) -> l1_loss_checks.Options | str:
    try:
        return l1_loss_checks.read_options(param_str)
    except ValueError as error:
        return str(error)


def test_the_plugin_makes_or_refuses_each_net_in_the_words_of_the_python_layer(plugin):
    texts = [text for text, _ in CASES]
    for (text, expected), said in zip(CASES, make_nets(texts, str(plugin))):
        if isinstance(expected, dict):
            assert said == "", (text, said)
        else:
            line = f'] L1Loss layer "loss": {expected}\n'
            assert line in said, (text[:200], said[-500:])


def test_the_plugin_reads_the_options_that_the_python_layer_reads(reader):
    texts = [text for text, _ in ACCEPTED]
    for (text, expected), read in zip(ACCEPTED, read_in_cpp(reader, texts)):
        assert read == options(expected), text[:200]


def test_a_native_layer_refuses_a_param_str_that_says_anything(native_caffe):
    line = ("param_str is read by the plugin and the Python layer, this Caffe reads l1_loss_param; "
            "fix: write the options there, as scripts/switch_route.py FILE --to native does")
    texts = [text for text, _ in CASES[::7]] + ["", " \t\r\n", "{}"]
    for text, said in zip(texts, make_nets(texts, path=(native_caffe,))):
        if text.strip(" \t\r\n"):
            assert f'L1Loss layer "loss": {line}' in said, text[:200]
        else:
            assert said == ""


TOKENS = ["{", "}", "[", "]", ":", ",", '"', "'", "\\", "\\u0041", "\\n", "\n", "\t", " ", "\0",
          "1", "-", "0", ".", "e", "E", "+", "5", "true", "false", "null", "NaN", "Infinity",
          '"reduction"', '"axis"', '"ignore_label"', '"ignoreLabel"', '"ignore_nonfinite_target"',
          '"ignoreNonfiniteTarget"', '"beta"', '"MEAN"', '"NONE"', '"SUM"', "9", "\xe9",
          "\U0001f600", "\x7f"]


def random_texts(seed: int, count: int) -> list[str]:
    """Cases with tokens put in, taken out, doubled and swapped; and objects made of tokens."""
    draw = random.Random(seed)
    short = [text for text, _ in CASES if len(text) < 200]

    def mutated(text: str) -> str:
        for _ in range(draw.randint(1, 3)):
            i, j = sorted(draw.randint(0, len(text)) for _ in range(2))
            j = min(j, i + 8)
            text = draw.choice([
                text[:i] + draw.choice(TOKENS) + text[i:], text[:i] + text[j:],
                text[:j] + text[i:j] + text[j:], text[:i] + draw.choice(TOKENS) + text[j:]])
        return text

    def made() -> str:
        members = [draw.choice(TOKENS) + ": " + draw.choice(TOKENS) +
                   draw.choice(["", "", draw.choice(TOKENS)]) for _ in range(draw.randint(0, 4))]
        return "{" + ", ".join(members) + "}"

    return [mutated(draw.choice(short)) if draw.random() < 0.7 else made() for _ in range(count)]


def test_random_texts_mean_the_same_to_both_readers(reader):
    """CAFFE_L1_FUZZ=N reads N times as many."""
    count = 20000 * int(os.environ.get("CAFFE_L1_FUZZ", "1"))
    seed = random.SystemRandom().randrange(2**32)
    texts = random_texts(seed, count)
    expected = [read_in_python(text) for text in texts]
    accepted = 0
    for text, python, cpp in zip(texts, expected, read_in_cpp(reader, texts)):
        assert python == cpp or axis_alone(python, cpp), (seed, text)
        accepted += isinstance(cpp, l1_loss_checks.Options)
    print(f"seed {seed}: {count} param_strs, {accepted} accepted, 0 differ")
    assert accepted > count / 50


def axis_alone(python: l1_loss_checks.Options | str, cpp: l1_loss_checks.Options | str) -> bool:
    """The plugin checks later, with loss_param, that axis has its reduction."""
    return (isinstance(cpp, l1_loss_checks.Options) and cpp.axis is not None
            and cpp.reduction != "NONE" and str(python).startswith('option "axis" needs'))


def test_the_list_of_cases_has_every_option_right_and_wrong():
    for name in l1_loss_checks.Options._fields:
        assert any(name in expected for _, expected in ACCEPTED), name
        assert any(f'option "{name}" is ' in expected for _, expected in REFUSED), name


def test_the_defaults_of_the_message_are_those_of_the_python_layer():
    message = (REPO / "caffe_patch/src/caffe/proto/l1_loss_parameter.proto").read_text()
    fields = re.findall(r"^  optional \w+ (\w+) = \d+(?: \[default = (\w+)\])?;", message,
                        re.MULTILINE)
    said = {name: json.loads(word) if word not in ("", "BATCHMEAN") else word or None
            for name, word in fields}
    assert said == l1_loss_checks.DEFAULTS._asdict()
