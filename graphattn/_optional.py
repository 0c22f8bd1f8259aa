"""One door to every optional package, so that a missing or broken one is always explained the same way."""

from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def _attempt(module: str) -> ModuleType | Exception:
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # OSError: a binary that was built for another torch
        return error


def is_available(module: str) -> bool:
    """Tell whether an optional package can be imported."""
    return isinstance(_attempt(module), ModuleType)


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra installs it and why the import failed."""
    result = _attempt(module)
    if isinstance(result, ModuleType):
        return result
    raise ImportError(
        f"{module} is needed here but could not be imported ({type(result).__name__}: {result}); "
        f"install it with: pip install 'graphattn[{extra}]'"
    ) from result
