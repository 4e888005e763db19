"""The two ways to build Caffe, behind one face: what to run, in which order, and its tests."""

import re
from pathlib import Path
from typing import Iterator, NamedTuple, Union

from ..common.errors import BuildFailed, Refused
from ..common.machine import probe
from ..common.packages import need
from ..common.process import output
from ..common.tree import MAKE_PYCAFFE, PYCAFFE, CaffeTree
from ..patch.naming import Naming
from .make_config import cmake_options

CONFIG = "Makefile.config"
ASK = "l1loss-kit-ask"
ANSWER = "l1loss-kit: "
# Caffe asks for a CMake before 3.5, which CMake 4 refuses without this; older ones ignore it.
POLICY = "CMAKE_POLICY_VERSION_MINIMUM"


class Stage(NamedTuple):
    """One command; `dry` prints what it would do, without doing it; `why` is for the user."""

    title: str
    command: "list[str]"
    dry: "list[str] | None" = None
    why: str = ""


def ask_make(root: Path, expression: str) -> str:
    """The value of a make variable, with all that Makefile.config says."""
    rule = f"{ASK}: ; @echo '{ANSWER}{expression}'"
    command = ["make", "-s", "--no-print-directory", "--eval", f".PHONY: {ASK}", "--eval", rule]
    # A Makefile may print something of its own before.
    _, answer, text = output([*command, ASK], root).rpartition(ANSWER)
    if not answer:
        raise BuildFailed("make cannot read it", "run make to see why", "Makefile")
    return text.strip()


class MakeBuild:
    def __init__(self, tree: CaffeTree, naming: Naming, jobs: int) -> None:
        need("make")
        self.root = self.folder = tree.root
        self.jobs = jobs
        self.filter = f"--gtest_filter={naming.fixture}*"
        self.binaries, self.include = self.ask("$(TEST_BIN_DIR)"), self.ask("$(INCLUDE_DIRS)")
        self.quick_binary = f"{self.binaries}/test_{naming.stem}_layer.testbin"
        self.header = self.root / self.ask("$(PROTO_BUILD_DIR)") / "caffe.pb.h"

    def ask(self, expression: str) -> str:
        return ask_make(self.root, expression)

    def stages(self, quick: bool) -> Iterator[Stage]:
        """What to make, in this order: the messages first.

        In older Makefiles what includes caffe.pb.h does not wait for it, and would find that of
        an installed Caffe.
        """
        for target in ["proto", *([self.quick_binary] if quick else ["all", "test"])]:
            title = "make" if target == self.quick_binary else "make " + target
            yield Stage(title, ["make", f"-j{self.jobs}", target], ["make", "-n", target])
        # With the messages as they were before, it would crash.
        library = self.root / PYCAFFE
        if library.is_file() and library.stat().st_mtime < self.header.stat().st_mtime:
            why = "making pycaffe again, which is older than caffe.pb.h"
            yield Stage("make pycaffe", MAKE_PYCAFFE, why=why)

    def binary(self, quick: bool) -> Path:
        return self.root / (self.quick_binary if quick else f"{self.binaries}/test_all.testbin")

    def test_command(self, quick: bool) -> "list[str]":
        if quick:
            return [str(self.binary(quick)), self.filter]
        return ["make", "runtest", "TEST_FILTER=" + self.filter]

    def finish(self) -> "list[str]":
        return []

    def include_folders(self) -> "list[Path]":
        return [self.root / folder for folder in self.include.split()]


class CMakeBuild:
    """Its commands run in the build folder: FindHDF5 leaves an a.out where it runs."""

    def __init__(self, tree: CaffeTree, naming: Naming, jobs: int, folder: Path) -> None:
        need("cmake")
        self.root = tree.root
        self.naming = naming
        self.jobs = jobs
        self.folder = folder
        self.cache = read_cache(folder)
        source = self.cache.get("CMAKE_HOME_DIRECTORY")
        if source is not None and Path(source).resolve() != self.root.resolve():
            problem = f"this CMake folder builds {source}"
            raise Refused(problem, "choose another --build-dir", str(folder))

    def configure(self, quick: bool) -> Stage:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["cmake", "-S", str(self.root), "-B", str(self.folder)]
        if not self.cache:
            command += cmake_options(probe())
        if POLICY not in self.cache:
            command.append(f"-D{POLICY}=3.5")
        if quick:
            command.append(f"-DBUILD_only_tests={self.naming.stem}_layer")
        return Stage("cmake", command)

    def stages(self, quick: bool) -> Iterator[Stage]:
        """Always configure first: only then Caffe looks for sources, and apply has added some."""
        yield self.configure(quick)
        # make stops at the libraries that a dry run did not make, unless told to go on
        dry = ["-n"] if (self.folder / "build.ninja").is_file() else ["-n", "-k"]
        for target in ["test.testbin"] if quick else ["all", "test.testbin"]:
            command = ["cmake", "--build", str(self.folder), "--target", target, "--"]
            yield Stage("build " + target, [*command, f"-j{self.jobs}"], command + dry)

    def binary(self, quick: bool) -> Path:
        return self.folder / "test" / "test.testbin"

    def test_command(self, quick: bool) -> "list[str]":
        """Caffe's own runtest target passes a filter of its own, which would win."""
        return [str(self.binary(quick)), f"--gtest_filter={self.naming.fixture}*"]

    def finish(self) -> "list[str]":
        """What gives an older folder back the choice of tests that it had."""
        chosen = "-DBUILD_only_tests=" + self.cache.get("BUILD_only_tests", "")
        return ["cmake", chosen, str(self.folder)] if self.cache else []

    def include_folders(self) -> "list[Path]":
        flags = self.folder / "src/caffe/CMakeFiles/caffe.dir/flags.make"
        text = flags.read_text("utf-8", "replace") if flags.is_file() else ""
        return [Path(path) for path in re.findall(r"(?:-I|-isystem )(\S+)", text)]

    @property
    def header(self) -> Path:
        found = sorted(self.folder.glob("*/caffe/proto/caffe.pb.h"))
        return found[0] if found else self.folder / "include/caffe/proto/caffe.pb.h"


Build = Union[MakeBuild, CMakeBuild]


def choose(tree: CaffeTree, naming: Naming, jobs: int, build_dir: "str | None") -> Build:
    """CMake where a folder for it is named or the tree was built with it, else make."""
    if build_dir is not None:
        return CMakeBuild(tree, naming, jobs, Path(build_dir).absolute())
    makefile, folder = tree.path("Makefile").is_file(), tree.root / "build"
    if makefile and tree.path(CONFIG).is_file():
        return MakeBuild(tree, naming, jobs)
    for built in (folder, tree.root):
        if (built / "CMakeCache.txt").is_file():
            return CMakeBuild(tree, naming, jobs, built.resolve())
    if makefile:
        raise Refused("is not there, and make needs it",
                      "add --write-config to write one that fits this machine, "
                      "or --build-dir DIR to build with CMake", CONFIG)
    if folder.is_symlink():  # a clone may bring it along, and it may lead anywhere
        raise Refused("is a link", "remove it, or name another folder with --build-dir", "build")
    return CMakeBuild(tree, naming, jobs, folder)


def read_cache(folder: Path) -> "dict[str, str]":
    cache = folder / "CMakeCache.txt"
    if not cache.is_file():
        return {}
    pattern = re.compile(r"^([A-Za-z_]\w*):\w+=(.*)$", re.MULTILINE)
    return dict(pattern.findall(cache.read_text("utf-8", "replace")))
