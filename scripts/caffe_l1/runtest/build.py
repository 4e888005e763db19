"""The two ways to build Caffe, behind one face: what to run, in which order, and its tests."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from ..common.errors import BuildFailed, Refused
from ..common.machine import Machine, probe
from ..common.packages import need
from ..common.process import output
from ..common.tree import MAKE_PYCAFFE, PYCAFFE, CaffeTree
from ..patch.naming import Naming
from .make_config import cmake_options

CONFIG = "Makefile.config"
ASK = "l1loss-kit-ask"
ANSWER = "l1loss-kit: "
# CMake 4 refuses what asks for a CMake before 3.5, as Caffe does, without this; others ignore it.
POLICY = "CMAKE_POLICY_VERSION_MINIMUM"


@dataclass(frozen=True)
class Stage:
    """One command; `dry` says what it would compile, without doing it; `why` is for the user."""

    title: str
    command: list[str]
    dry: list[str] | None = None
    why: str = ""


def ask_make(root: Path, expression: str) -> str:
    """The value of a make variable, with all that Makefile.config says."""
    rule = f"{ASK}: ; @echo '{ANSWER}{expression}'"
    command = ["make", "-s", "--no-print-directory", "--eval", f".PHONY: {ASK}"]
    command += ["--eval", rule, ASK]
    # A Makefile may print something of its own before.
    _, answer, text = (output(command, root) or "").rpartition(ANSWER)
    if not answer:
        raise BuildFailed("make cannot read it", "run make to see why", "Makefile")
    return text.strip()


class MakeBuild:
    def __init__(self, tree: CaffeTree, naming: Naming, jobs: int) -> None:
        self.root = self.folder = tree.root
        self.naming = naming
        self.jobs = jobs
        need("make")
        self.bin_folder, self.include = self.ask("$(TEST_BIN_DIR)"), self.ask("$(INCLUDE_DIRS)")
        self.generated = self.root / self.ask("$(PROTO_BUILD_DIR)")

    def ask(self, expression: str) -> str:
        return ask_make(self.root, expression)

    @property
    def filter(self) -> str:
        return f"--gtest_filter={self.naming.fixture}*"

    def stages(self, quick: bool) -> Iterator[Stage]:
        """What to make, in this order: the messages first.

        In older Makefiles what includes caffe.pb.h does not wait for it, and would find that of
        an installed Caffe.
        """
        for target in ["proto", *([self.quick_binary] if quick else ["all", "test"])]:
            yield self.stage(target)
        if self.pycaffe_is_older():
            why = "making pycaffe again, which is older than caffe.pb.h"
            yield Stage("make pycaffe", MAKE_PYCAFFE, why=why)

    def pycaffe_is_older(self) -> bool:
        """Whether it was built with the messages as they were before: it would crash."""
        library = self.root / PYCAFFE
        header = self.generated_header
        return library.is_file() and library.stat().st_mtime < header.stat().st_mtime

    def stage(self, target: str) -> Stage:
        command = ["make", f"-j{self.jobs}", target]
        title = "make" if target == self.quick_binary else "make " + target
        return Stage(title, command, ["make", "-n", target])

    @property
    def quick_binary(self) -> str:
        return f"{self.bin_folder}/test_{self.naming.stem}_layer.testbin"

    def test_command(self, quick: bool) -> list[str]:
        if quick:
            return [str(self.binary(quick)), self.filter]
        return ["make", "runtest", "TEST_FILTER=" + self.filter]

    def binary(self, quick: bool) -> Path:
        return self.root / (self.quick_binary if quick else f"{self.bin_folder}/test_all.testbin")

    def finish(self) -> list[Stage]:
        return []

    def include_folders(self) -> list[Path]:
        return [self.root / folder for folder in self.include.split()]

    @property
    def generated_header(self) -> Path:
        return self.generated / "caffe.pb.h"


class CMakeBuild:
    """Its commands run in the build folder: FindHDF5 leaves an a.out where it runs."""

    def __init__(self, tree: CaffeTree, naming: Naming, jobs: int, folder: Path) -> None:
        self.root = tree.root
        self.naming = naming
        self.jobs = jobs
        self.folder = folder
        self.cache = read_cache(folder)
        need("cmake")
        source = self.cache.get("CMAKE_HOME_DIRECTORY")
        if source is not None and Path(source).resolve() != self.root.resolve():
            raise Refused(
                f"this CMake folder builds {source}", "choose another --build-dir", str(folder)
            )

    def configure(self, quick: bool, machine: Machine | None = None) -> Stage:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["cmake", "-S", str(self.root), "-B", str(self.folder)]
        if not self.cache:
            command += cmake_options(machine or probe())
        if POLICY not in self.cache:
            command.append(f"-D{POLICY}=3.5")
        if quick:
            command.append(f"-DBUILD_only_tests={self.naming.stem}_layer")
        return Stage("cmake", command)

    def stages(self, quick: bool) -> Iterator[Stage]:
        """Configure, always: Caffe lists its sources only then, and apply has added some."""
        yield self.configure(quick)
        for target in ["test.testbin"] if quick else ["all", "test.testbin"]:
            yield self.stage(target)

    def stage(self, target: str) -> Stage:
        command = ["cmake", "--build", str(self.folder), "--target", target, "--"]
        # make stops at the libraries that a dry run did not make, unless told to go on
        dry = ["-n"] if (self.folder / "build.ninja").is_file() else ["-n", "-k"]
        return Stage("build " + target, command + [f"-j{self.jobs}"], command + dry)

    def test_command(self, quick: bool) -> list[str]:
        """Caffe's own runtest target passes a filter of its own, which would win."""
        return [str(self.binary(quick)), f"--gtest_filter={self.naming.fixture}*"]

    def binary(self, quick: bool) -> Path:
        return self.folder / "test" / "test.testbin"

    def finish(self) -> list[Stage]:
        """An older folder gets back the choice of tests it had."""
        if not self.cache:
            return []
        chosen = self.cache.get("BUILD_only_tests", "")
        return [Stage("cmake", ["cmake", "-DBUILD_only_tests=" + chosen, str(self.folder)])]

    def include_folders(self) -> list[Path]:
        flags = self.folder / "src/caffe/CMakeFiles/caffe.dir/flags.make"
        text = flags.read_text("utf-8", "replace") if flags.is_file() else ""
        return [Path(path) for path in re.findall(r"(?:-I|-isystem )(\S+)", text)]

    @property
    def generated_header(self) -> Path:
        found = [p for p in sorted(self.folder.glob("*/caffe/proto/caffe.pb.h"))]
        return found[0] if found else self.folder / "include/caffe/proto/caffe.pb.h"


def choose(
    tree: CaffeTree, naming: Naming, jobs: int, build_dir: str | None
) -> MakeBuild | CMakeBuild:
    """CMake where a folder for it is named or the tree was built with it, else make."""
    if build_dir is not None:
        return CMakeBuild(tree, naming, jobs, Path(build_dir).absolute())
    if tree.path(CONFIG).is_file() and tree.path("Makefile").is_file():
        return MakeBuild(tree, naming, jobs)
    for folder in (tree.root / "build", tree.root):
        if (folder / "CMakeCache.txt").is_file():
            return CMakeBuild(tree, naming, jobs, folder.resolve())
    if not tree.path("Makefile").is_file():
        return CMakeBuild(tree, naming, jobs, fresh_folder(tree))
    raise Refused(
        "is not there, and make needs it",
        "add --write-config to write one that fits this machine, "
        "or --build-dir DIR to build with CMake",
        CONFIG,
    )


def fresh_folder(tree: CaffeTree) -> Path:
    """A clone may bring along a link in its place, which leads anywhere."""
    folder = tree.root / "build"
    if folder.is_symlink():
        fix = "remove it, or name the folder to build in: --build-dir"
        raise Refused("is a link", fix, "build")
    return folder


def read_cache(folder: Path) -> dict[str, str]:
    cache = folder / "CMakeCache.txt"
    if not cache.is_file():
        return {}
    pattern = re.compile(r"^([A-Za-z_]\w*):\w+=(.*)$", re.MULTILINE)
    return dict(pattern.findall(cache.read_text("utf-8", "replace")))


def dry_run(stage: Stage, folder: Path) -> str:
    """What is still to be done."""
    return (output(stage.dry, folder, even_failed=True) if stage.dry else None) or ""


def other_header(build: MakeBuild | CMakeBuild) -> tuple[Path, Path] | None:
    """A caffe.pb.h that the compiler finds before the one this build makes."""
    ours = build.generated_header
    for folder in build.include_folders():
        header = folder / "caffe/proto/caffe.pb.h"
        if ours.parent.resolve() == header.parent.resolve():
            return None
        if header.is_file() and not (ours.is_file() and header.samefile(ours)):
            if folder.resolve() == ours.parents[2].resolve():
                return None
            return header, ours
    return None
