"""A pretended device: tensors that have values and say that they are not on the host, and a record of what goes over.

Fake tensors have no values, so that code which reads some back ends at the first read. Here it runs to its end: an
operation that mixes host and device raises, and every read of the device and every copy is noted with the function of
the package that asked for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")  # what the tensors say; torch does nothing there by itself

_aten = torch.ops.aten
# Operations whose result, or its size, depends on values: the host waits for the device.
_READS = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.unique_consecutive.default,
    _aten.masked_select.default,
    _aten.bincount.default,
    _aten.repeat_interleave.Tensor,
    _aten.equal.default,
    _aten.is_nonzero.default,
}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_COPIES = {_aten._to_copy.default, _aten.copy_.default}


class There(Tensor):
    """A tensor of the pretended device."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> There:
        self = Tensor._make_wrapper_subclass(
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
            if func is Tensor.tolist:
                return args[0].cpu().tolist()
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} is called outside of Elsewhere()")

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.value!r})"


class Elsewhere(TorchDispatchMode):
    """Run what says that it is on :data:`DEVICE`.

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
        there = [x for x in given if isinstance(x, There)]
        here = [x for x in given if not isinstance(x, There) and x.dim() > 0]
        if func in _INDEXING:
            # torch takes indices of the host too, and copies them.
            indices = [x for x in args[1] if x is not None]
            if isinstance(args[0], There) and any(not isinstance(x, There) for x in indices):
                self.copies.add(_caller())
                here = [x for x in here if all(x is not index for index in indices)]
        target = kwargs.get("device")
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        if func in _COPIES:
            source, wanted = (args[1], args[0].device) if func is _aten.copy_.default else (args[0], target)
            if wanted is not None and torch.device(wanted) != source.device and source.dim():
                self.copies.add(_caller())
        elif there and here:
            shapes = [(tuple(x.shape), str(x.device)) for x in given]
            raise AssertionError(f"{func} mixes host and device: {shapes}")
        elif there and (func in _READS or (func in _INDEXING and _has_mask(args[1]))):
            self.reads.add(_caller())
        owners = {id(x.value): x for x in there}
        out = func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
        on_device = bool(there) if target is None else torch.device(target) == DEVICE

        def wrap(x: Any) -> Any:
            if not isinstance(x, Tensor) or not on_device:
                return x
            return owners[id(x)] if id(x) in owners else There(x)

        return tree_map(wrap, out)


class _FromNumbers(TorchFunctionMode):
    """``torch.tensor(numbers, device=...)``, which copies them; torch leaves out the numbers where the device is meta."""

    def __init__(self, copies: set[str]) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            like = args[0].device if func is Tensor.new_tensor else "cpu"
            device = torch.device(kwargs.pop("device", None) or like)
            if device == DEVICE:
                numbers = args[1:] if func is Tensor.new_tensor else args
                if func is Tensor.new_tensor:
                    kwargs.setdefault("dtype", args[0].dtype)
                if not isinstance(numbers[0], Tensor):
                    self.copies.add(_caller())
                    return torch.tensor(*numbers, **kwargs).to(DEVICE)
            kwargs["device"] = device
        return func(*args, **kwargs)


def move(x: Any) -> Any:
    """A tensor of the host on the pretended device."""
    return There(x.detach().clone()) if isinstance(x, Tensor) else x


def _unwrap(x: Any) -> Any:
    return x.value if isinstance(x, There) else x


def _has_mask(indices: Any) -> bool:
    return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in indices)


def _caller() -> str:
    """The function of the package that asked for the operation, or else of PyG."""
    for package in ("graphattn", "torch_geometric"):
        frame: Any = sys._getframe(2)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.split(".")[0] == package:
                return f"{module.removeprefix('graphattn.')}.{frame.f_code.co_name}"
            frame = frame.f_back
    raise AssertionError("neither graphattn nor PyG asked for this operation")


def crossings(call: Callable[[], Any]) -> Elsewhere:
    """Call a function and tell what it reads and copies."""
    with torch.no_grad(), Elsewhere() as elsewhere, _FromNumbers(elsewhere.copies):
        call()
    return elsewhere
