"""Tensors in one safetensors file, written in one step and read with suspicion; and into a module, all or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from suffuse.base import files
from suffuse.base.errors import RunError, UsageError

__all__ = ["check_state", "load_weights", "read_safetensors", "save_safetensors"]

_NOTES = "suffuse"
_MEMORY_FORMATS = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}
_PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}


def save_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file in one step, from any device, in any layout.

    Tensors that are the same memory seen in the same way (tied weights) are stored once, and channels-last layouts
    are remembered: both come back in `read_safetensors`. Equal tensors make equal files. Needs as much memory again
    as the tensors have.

    Raises:
        UsageError: A tensor has no dense values that the format can hold (sparse, meta, sharded, complex128), or a
            name that it keeps for itself.
        RunError: The file cannot be written; an old one is unchanged.
    """
    stored: dict[str, Tensor] = {}
    first: dict[object, str] = {}
    storages: set[int] = set()
    ties, layouts = {}, {}
    for name, tensor in tensors.items():
        if name == "__metadata__":
            raise UsageError(f"tensor name {name!r} is taken by the safetensors format; rename the tensor")
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_meta:
            raise UsageError(f"tensor {name!r} is {_described(tensor)}; give a dense tensor with values")
        bits = (tensor.is_conj(), tensor.is_neg())
        view = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), bits)
        if tensor.numel() and first.setdefault(view, name) != name:
            ties[name] = first[view]
            continue
        layout = {4: "channels_last", 5: "channels_last_3d"}.get(tensor.ndim)
        if layout and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=_MEMORY_FORMATS[layout]):
            layouts[name] = layout
        plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in storages:  # other views of one storage: the format has no overlaps
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    # A single key: the format's writer puts several in an order of its own, and equal weights would differ in bytes.
    noted = {_NOTES: json.dumps({"ties": ties, "layouts": layouts})} if ties or layouts else {"format": "pt"}
    try:
        data = safetensors.torch.save(stored, metadata=noted)
    except KeyError as error:
        raise UsageError(f"{path.name} cannot hold values of {error}; convert those tensors first") from error
    files.write_bytes(path, data)


def _described(tensor: Tensor) -> str:
    return f"a {type(tensor).__name__} with layout {tensor.layout} on {tensor.device}"


def read_safetensors(path: Path, *, finite: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU, with the ties and layouts that `save_safetensors` noted.

    Args:
        path: The file; from this package or any other.
        finite: Whether NaN and infinity are refused.

    Raises:
        UsageError: There is no such file, or it is a pickle.
        RunError: It is truncated, has trailing bytes or is otherwise malformed; or a value is not finite.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there; check the path")
    try:
        _refuse_pickle(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            notes = json.loads((file.metadata() or {}).get(_NOTES, "{}"))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        for name, layout in notes.get("layouts", {}).items():
            tensors[name] = tensors[name].contiguous(memory_format=_MEMORY_FORMATS[layout])
        tensors |= {name: tensors[tied] for name, tied in notes.get("ties", {}).items()}
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}; check its rights and its disk") from error
    except SafetensorError as error:
        raise RunError(f"{path} is broken: {_byte_counts(path)} ({error}); take another copy of it") from error
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path} is broken: its notes or tensors make no sense ({error}); take another copy") from error
    for name, tensor in tensors.items() if finite else ():
        _refuse_not_finite(path, name, tensor)
    return tensors


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(9)
    # In a safetensors file the ninth byte opens the header; in a zip archive or a pickle it never is a brace.
    is_pickle = head[8:] != b"{" and (head[:4] == b"PK\x03\x04" or head[:2] in {b"\x80" + bytes([i]) for i in range(6)})
    if is_pickle or path.suffix.lower() in _PICKLE_SUFFIXES:
        raise UsageError(
            f"{path} is a pickle, which can run code when it is read; where you trust it, convert it with "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
        )


def _byte_counts(path: Path) -> str:
    """What a malformed file has and what its header promises, in bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, size))
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for entry in header.values() if "dtype" in entry]
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError):
        return f"its {size} bytes have no readable header"
    return f"it has {size} bytes, its header says {8 + length + max(ends, default=0)}"


def _refuse_not_finite(path: Path, name: str, tensor: Tensor) -> None:
    wide = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor  # no isfinite for float8
    bad = int((~torch.isfinite(wide)).sum())
    if bad:
        raise RunError(f"{path} holds NaN or infinity: {bad} of {tensor.numel()} values of tensor {name!r}")


def check_state(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, owner: str = "the weights") -> None:
    """Compare names and shapes before anything is loaded.

    Args:
        expected: What the module has, its `state_dict()`.
        found: What shall be loaded.
        owner: What to call `found` in the message, such as its path.

    Raises:
        UsageError: They differ; missing, unknown and wrongly shaped ones are counted, the first few are named.
    """
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    differences = [
        _some("missing", [name for name in expected if name not in found]),
        _some("unknown", [name for name in found if name not in expected]),
        _some("of another shape", shapes),
    ]
    if any(differences):
        told = "; ".join(filter(None, differences))
        raise UsageError(f"{owner} do not fit the model: {told}; use the configuration that they were trained with")


def _some(what: str, names: list[str], most: int = 4) -> str:
    more = ", ..." if len(names) > most else ""
    return f"{len(names)} {what} ({', '.join(names[:most])}{more})" if names else ""


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, owner: str = "the weights") -> None:
    """Copy tensors into a module, all or none; values take the module's dtype and device.

    Raises:
        UsageError: Names or shapes differ (see `check_state`); the module is unchanged.
    """
    check_state(module.state_dict(), tensors, owner=owner)
    module.load_state_dict(dict(tensors))
