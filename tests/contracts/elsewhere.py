"""A pretended device: tensors that have values and say that they are not on the host, and a record of what goes over.

Fake tensors have no values, so that code which reads some back ends at the first read. Here it runs to its end: an
operation that mixes host and device raises, and every read of the device and every copy is noted with the function
that asked for it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import graphattn.diffusion  # noqa: F401  (registers its operator)

DEVICE = torch.device("meta")  # what the tensors say; torch itself does nothing there

_aten = torch.ops.aten
# Operations whose result, or its size, depends on values, so that the host waits for the device.
_READS = {
    _aten._local_scalar_dense.default,
    _aten._unique2.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
    _aten.unique_consecutive.default,
    _aten.unique_dim.default,
    torch.ops.graphattn_diffusion.resolvent.default,  # looks whether its solver has converged
}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_NUMBERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


class There(Tensor):
    """A tensor of the pretended device."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> There:
        self: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=DEVICE,
        )
        self.value = value
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            # torch reads the memory of a tensor in its own list of numbers, which there is none of here.
            return args[0].cpu().tolist() if func is Tensor.tolist else func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} is called outside of Crossings")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.value!r})"


class Crossings(TorchDispatchMode):
    """Run what says that it is on :data:`DEVICE`, and note what crosses between it and the host.

    Attributes:
        reads: Functions, as ``module.function``, that wait for values of the device.
        copies: Functions that copy arrays between host and device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: set[str] = set()
        self.copies: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in given if _is_there(x)]
        here = [x for x in given if not _is_there(x) and x.dim() > 0]
        target = kwargs.get("device")
        self._note(func, args, kwargs, bool(there), here)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        owners = {id(_value(x)): x for x in there}
        out = func(*tree_map(_value, args), **tree_map(_value, kwargs))
        on_device = bool(there) if target is None else torch.device(target) == DEVICE
        return tree_map(lambda x: owners.get(id(x), _wrap(x)) if on_device and isinstance(x, Tensor) else x, out)

    def _note(self, func: Any, args: Any, kwargs: Any, any_there: bool, here: list[Tensor]) -> None:
        if func in (_aten._to_copy.default, _aten.copy_.default):
            source, wanted = (
                (args[1], args[0].device) if func is _aten.copy_.default else (args[0], kwargs.get("device"))
            )
            if wanted is not None and source.dim() and (torch.device(wanted) == DEVICE) != _is_there(source):
                self.copies.add(_caller())
            return
        if any_there and func in _INDEXING:
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                self.reads.add(_caller())
            if any(x is index for x in here for index in indices):  # which torch copies by itself
                self.copies.add(_caller())
                here = [x for x in here if all(x is not index for index in indices)]
        if any_there and here:
            raise AssertionError(f"{func} mixes the device with {[tuple(x.shape) for x in here]} of the host")
        counted = func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if any_there and (func in _READS or counted):
            self.reads.add(_caller())


class _Numbers(TorchFunctionMode):
    """``torch.tensor(numbers, device=...)`` copies them; torch itself leaves them out where the device is meta."""

    def __init__(self, copies: set[str]) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _NUMBERS:
            return func(*args, **kwargs)
        if func is Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            func, args = torch.tensor, args[1:]
        if torch.device(kwargs.get("device") or "cpu") != DEVICE or isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        self.copies.add(_caller())
        return _wrap(func(*args, **{**kwargs, "device": "cpu"}))


def crossings(call: Callable[[], Any]) -> tuple[Any, Crossings]:
    """Call a function; return what it returns, and what crossed."""
    with Crossings() as found, _Numbers(found.copies):
        return call(), found


def move(x: Any) -> Any:
    """A tensor, or a module with all that it has registered, on the pretended device."""
    if isinstance(x, nn.Module):
        moved = copy.deepcopy(x)
        for module in moved.modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update({name: move(tensor) for name, tensor in tensors.items()})  # type: ignore[arg-type]
        return moved
    return There(x.detach().clone()) if isinstance(x, Tensor) else x


def _is_there(x: Tensor) -> bool:
    return isinstance(x, There) or getattr(x, "is_there", False)


def _value(x: Any) -> Any:
    return x.value if isinstance(x, There) else x


def _wrap(x: Tensor) -> Tensor:
    if x.layout == torch.strided:
        return There(x)
    x.is_there = True  # type: ignore[attr-defined]  # torch has no wrapper for sparse tensors
    return x


def _caller() -> str:
    """The function of graphattn that asked for the operation."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module.split(".")[0] == "graphattn" and not function.startswith("<"):
            return f"{module.removeprefix('graphattn.')}.{function}"
        frame = frame.f_back
    raise AssertionError("no function of graphattn asked for this operation")
