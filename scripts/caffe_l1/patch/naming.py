"""How our layer is called in a tree, and our sources under those names."""

import re
from typing import NamedTuple

from ..common.errors import WrongUsage

FIRST_RESERVED, LAST_RESERVED = 19000, 19999  # protobuf keeps these for itself
MAX_FIELD_ID = 536870911
OTHER_NAMES = "apply under other names: --type-name MyL1Loss --field-name my_l1_loss_param"
OUR_NAMES = re.compile(
    rb"(?<!Smooth)L1Loss|(?<![A-Za-z0-9])l1_loss_param(?![a-z])|(?<![A-Za-z0-9])(?:l1_loss|L1_LOSS)"
)


class Naming(NamedTuple):
    """Default: type: "L1Loss" with `optional L1LossParameter l1_loss_param = 1701`."""

    type_name: str = "L1Loss"
    field_name: str = "l1_loss_param"
    field_id: int = 1701

    @property
    def message(self) -> str:
        return self.type_name + "Parameter"

    @property
    def stem(self) -> str:
        """Caffe's name of the files: l1_loss for L1Loss, my_l1_loss for MyL1Loss."""
        words = re.findall(r"[A-Z0-9]+(?=[A-Z][a-z])|[A-Z]?[a-z]+[0-9]*|[A-Z0-9]+", self.type_name)
        return "_".join(words).lower()

    @property
    def fixture(self) -> str:
        return self.type_name + "LayerTest"


def check_naming(naming: Naming) -> None:
    if not re.match(r"[A-Z][A-Za-z0-9]*\Z", naming.type_name):
        raise WrongUsage(f"{naming.type_name!r} is not a valid type name",
                         "use letters and digits, the first a capital letter, as in MyL1Loss")
    if not re.match(r"[a-z][a-z0-9_]*\Z", naming.field_name):
        raise WrongUsage(f"{naming.field_name!r} is not a valid field name",
                         "use lower case letters, digits and _, as in my_l1_loss_param")
    number = naming.field_id
    if not 1 <= number <= MAX_FIELD_ID or FIRST_RESERVED <= number <= LAST_RESERVED:
        raise WrongUsage(f"field number {number} is not allowed by protobuf",
                         f"use 1 to {MAX_FIELD_ID} without {FIRST_RESERVED} to {LAST_RESERVED}")


def rename(text: bytes, naming: Naming) -> bytes:
    """Our sources speak of L1Loss, l1_loss_param, l1_loss and L1_LOSS: all of them are renamed."""
    names = {b"L1Loss": naming.type_name, b"l1_loss_param": naming.field_name,
             b"l1_loss": naming.stem, b"L1_LOSS": naming.stem.upper()}
    return OUR_NAMES.sub(lambda match: names[match.group()].encode(), text)
