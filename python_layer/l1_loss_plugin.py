"""Make `type: "L1Loss"` available in a pycaffe that nobody rebuilds.

    import caffe
    import l1_loss_plugin
    l1_loss_plugin.load()

`scripts/build_plugin.py`, or `caffe-l1 build-plugin`, makes the plugin, a shared library, for the
Caffe that is installed. Its options are the JSON of the Python layer, in
`python_param { param_str: ... }`.

Python 2.7 and 3.5 onward.
"""

from __future__ import print_function

import ctypes
import os
import re
import sys
import zlib

__all__ = ["PluginError", "load"]

NAME = "libl1_loss_plugin.so"
BUILD = "scripts/build_plugin.py (or caffe-l1 build-plugin)"
AGAIN = "fix: build the plugin again with " + BUILD
MARK = re.compile(b"l1-loss-plugin for ([0-9]+-[0-9a-f]{8})")

OWN_L1_LOSS = (
    "l1_loss_plugin: this Caffe has an L1Loss layer already, %s is not loaded; where it is this "
    "kit's, it reads l1_loss_param and refuses python_param { param_str } in an L1Loss layer; fix: "
    "scripts/switch_route.py FILE --to native (or caffe-l1 switch-route) rewrites the net")


class PluginError(RuntimeError):
    """The plugin cannot be loaded into this process."""


def load(path=None):
    """Load the plugin at path (default: $L1_LOSS_PLUGIN, or where build_plugin.py puts it).

    Returns True if `L1Loss` comes from the plugin, even if LD_PRELOAD or an earlier call loaded it;
    False if this Caffe has an L1Loss of its own, and standard error then says what this means for
    the net. Raises PluginError, before anything is loaded, for a file that is missing, is not a
    plugin, or was built for another Caffe.
    """
    import caffe

    path = os.path.abspath(path or os.environ.get("L1_LOSS_PLUGIN") or default_path())
    if path in _loaded:
        return True
    if not hasattr(caffe, "layer_type_list"):
        raise PluginError("%s: this is no pycaffe, or one too old to list its layer types; fix: "
                          "pip uninstall caffe, if that brought it" % caffe.__file__)
    if "L1Loss" in list(caffe.layer_type_list()):
        return came_from_plugin(path)
    check(path, loaded_caffe())
    try:
        _loaded[path] = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise PluginError(  # noqa: B904 (Python 2.7 knows no "from")
            "%s; %s" % (error, AGAIN))
    if "L1Loss" not in list(caffe.layer_type_list()):
        raise PluginError("%s: it is loaded, but this Caffe knows no L1Loss; %s" % (path, AGAIN))
    return True


def came_from_plugin(path):
    """Tell whether the L1Loss that is there came from this plugin; if not, say whose it is."""
    if is_plugin_for_this_process():
        if os.path.realpath(path) in mapped_files():
            return True
        print("l1_loss_plugin: another plugin brought L1Loss already, %s is not loaded" % path,
              file=sys.stderr)
    else:
        print(OWN_L1_LOSS % path, file=sys.stderr)
    return False


_loaded = {}


def default_path():
    """Return where build_plugin.py puts it: beside this file, or in the kit that pip installed."""
    folder = os.path.dirname(os.path.realpath(__file__))
    installed = os.path.join(folder, "caffe_l1_loss", "python_layer")
    return os.path.join(installed if os.path.isdir(installed) else folder, NAME)


def check(path, library):
    """Raise PluginError unless path is a plugin for the Caffe whose shared library is named."""
    if not os.path.isfile(path):
        raise PluginError("%s: no such file; fix: build the plugin with %s" % (path, BUILD))
    with open(path, "rb") as plugin:
        mark = MARK.search(plugin.read())
    if not mark:
        raise PluginError("%s: this is no L1Loss plugin; fix: build one with %s" % (path, BUILD))
    if mark.group(1).decode("ascii") != fingerprint(library):
        raise PluginError("%s: this plugin was built for another Caffe than %s; %s"
                          % (path, library, AGAIN))


def fingerprint(library):
    """Return the size and CRC-32 of a library, as the plugin itself compares them once loaded."""
    with open(library, "rb") as caffe:
        data = caffe.read()
    return "%d-%08x" % (len(data), zlib.crc32(data) & 0xffffffff)


def is_plugin_for_this_process():
    """Tell whether a plugin is loaded whose mark names the Caffe of this process."""
    try:
        mark = ctypes.c_char.in_dll(ctypes.CDLL(None), "l1_loss_plugin_built_for")
    except ValueError:
        return False
    text = ctypes.string_at(ctypes.addressof(mark))
    return MARK.match(text).group(1).decode("ascii") == fingerprint(loaded_caffe())


def mapped_files():
    """Return the files that this process has mapped into its memory, links followed."""
    with open("/proc/self/maps") as maps:
        columns = [line.rstrip("\n").split(None, 5) for line in maps]
    return [column[5] for column in columns if len(column) == 6]


def loaded_caffe():
    """Return the path of the libcaffe of this process."""
    for path in mapped_files():
        if re.match(r"libcaffe(-d)?\.so", os.path.basename(path)):
            return path
    raise PluginError("this pycaffe has no libcaffe.so of its own, it is linked statically; fix: "
                      "build Caffe with BUILD_SHARED_LIBS on")
