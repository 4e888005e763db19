"""Get the files of the Motorcycle pair, by pip; needs nothing but Python."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from caffe_l1.common.packages import install

# The last scikit-image whose wheel holds the pair itself; later ones download it when asked.
WHEEL = ["scikit-image==0.17.2", "--no-deps", "--only-binary=:all:", "--python-version", "37",
         "--implementation", "cp", "--abi", "cp37m", "--platform", "manylinux1_x86_64"]
FILES = ("motorcycle_left.png", "motorcycle_right.png", "motorcycle_disp.npz")
CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
FOLDER = Path(os.environ.get("CAFFE_L1_WORK") or f"{CACHE}/caffe-l1-loss/work") / "motorcycle"


def fetch() -> None:
    """Take the three files out of the wheel, once."""
    if all((FOLDER / name).exists() for name in FILES):
        return
    print("fetching the Motorcycle pair from scikit-image's wheel (12 MB)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(FOLDER)) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "-d", scratch, *WHEEL]
        if subprocess.run(command).returncode:
            sys.exit("demo_stereo: pip could not download the images; fix: see above, or "
                     f"{install('python3-pip')}")
        [wheel] = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(str(wheel)) as archive:
            for name in FILES:
                os.replace(archive.extract(f"skimage/data/{name}", scratch), str(FOLDER / name))
