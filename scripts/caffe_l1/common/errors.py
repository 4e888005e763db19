"""What can go wrong, as one exception per exit code; cli.py alone turns them into exits."""


class KitError(Exception):
    """`FILE:LINE: problem; fix: ...`, without the parts that are not known."""

    code = 1

    def __init__(self, problem: str, fix: str = "", file: str = "", line: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix
        self.file = file
        self.line = line

    def __str__(self) -> str:
        where = ":".join(filter(None, [self.file, str(self.line or "")]))
        text = f"{where}: {self.problem}" if where else self.problem
        return one_line(f"{text}; fix: {self.fix}" if self.fix else text)


class Refused(KitError):
    """The tree is not one the kit may change as asked; nothing was changed."""


class WrongUsage(KitError):
    """The command line asks for something that does not exist."""

    code = 2


class BuildFailed(KitError):
    """The build or the tests failed, or no test ran."""

    code = 3


class FileSystemFailed(KitError):
    """Disk full, read-only, input/output error; the tree is as before."""

    code = 4


class RecordDamaged(KitError):
    """The kit's own record in the tree cannot be trusted; nothing was touched."""

    code = 5


class Mixed(KitError):
    """The file system failed, and then to put things back as well: some files are old, some new."""

    code = 6


def one_line(text: str) -> str:
    """Paths may hold line ends, escapes for terminals and bytes that are no text."""
    return "".join(letter if letter.isprintable() else
                   letter.encode("unicode_escape").decode("ascii") for letter in text)
