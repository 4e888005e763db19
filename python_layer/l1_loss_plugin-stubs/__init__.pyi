import os

__all__ = ["PluginError", "load"]

class PluginError(RuntimeError): ...

def load(path: str | os.PathLike[str] | None = None) -> bool: ...
