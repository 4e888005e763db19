"""What the entry scripts in scripts/ and the command caffe-l1 are made of."""

from pathlib import Path

VERSION = "1.1.0"
# Holds caffe_patch/, python_layer/ and prototxt/, in a checkout and where it is installed.
HOME = Path(__file__).resolve().parents[2]
