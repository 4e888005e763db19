"""What the entry scripts in scripts/ and the command caffe-l1 are made of."""

import sys

if sys.version_info < (3, 6):  # Python 2.7 reads this file and those that are started
    sys.exit("this needs Python 3.6 or newer, and this is {}.{}; fix: run it by another Python, or "
             "patch without: elsewhere, scripts/apply_patch.py check CAFFE_ROOT > l1.patch; here, "
             "cd CAFFE_ROOT && patch -p1 < l1.patch".format(*sys.version_info))

from pathlib import Path  # noqa: E402 # novermin

VERSION = "1.1.0"
# Holds caffe_patch/, python_layer/ and prototxt/, in a checkout and where it is installed.
HOME = Path(__file__).resolve().parents[2]
