"""torch's own files to safetensors and back: `python -m torch_ref.files read|write`.

A program of its own, so that who reads such a file from elsewhere never imports torch. What is in
it is plain: a folder with `tensors.safetensors` and `record.json`, which says

* `under`: the key that the state dict has in the file; null where it is all that there is;
* `beside`: what else there is of plain types, as nanoGPT's model_args, config and iter_num;
* `aliases`: names of tensors that are others' over again, as a tied output matrix is.
"""

import io
import json
import pickle
import re
import sys
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TENSORS, RECORD = "tensors.safetensors", "record.json"
WRAPPERS = ("model", "state_dict", "model_state_dict")
SPARE = 1 << 29  # bytes that torch may take beside what a file holds
REMEDY = "save the weights alone: torch.save(model.state_dict(), PATH)"
DROPPED = object()


class NoStateDict(ValueError):
    """What a file is, instead of one with weights: one line with the remedy."""


def read(path: Path, folder: Path) -> None:
    """What `torch.save` wrote at `path`, into `folder`. NoStateDict; OSError as usual.

    Nothing in the file is called: classes other than torch's tensors are refused by name.
    """
    loaded = _loaded(path)
    under, state_dict = _state_dict(loaded)
    tensors, aliases = _tensors(state_dict, 2 * path.stat().st_size + (1 << 20))
    beside = {} if under is None else {k: _plain(v) for k, v in loaded.items() if k != under}
    record = {
        "under": under,
        "beside": {k: v for k, v in beside.items() if v is not DROPPED and isinstance(k, str)},
        "aliases": aliases,
    }
    save_file(tensors, folder / TENSORS)
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")


def write(folder: Path, path: Path) -> None:
    """The inverse: `torch.save` of what is in `folder`."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    state_dict = load_file(folder / TENSORS)
    for name, of in record["aliases"].items():
        state_dict[name] = state_dict[of]
    whole = state_dict
    if record["under"] is not None:
        whole = {record["under"]: state_dict, **record["beside"]}
    with path.open("wb") as file:  # torch by itself says that it cannot in words of its own
        torch.save(whole, file)


def _loaded(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    if zipped and not zipfile.is_zipfile(path):
        raise NoStateDict("no whole file of torch.save: its end is cut off; fetch or copy it again")
    # A name may say that it is gigabytes long: a file would be asked for them, bytes have an end.
    source = path if zipped else io.BytesIO(path.read_bytes())
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=zipped)
    except (OSError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        if refused is None or (not zipped and _ends_within(path, refused[1])):
            raise NoStateDict(f"no whole file of torch.save ({_first_line(error)})") from error
        raise NoStateDict(
            f"it holds {refused[1]}, which would be run to be loaded, beside weights or in their "
            f"place; {REMEDY}"
        ) from error
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise MemoryError from error
        # torch raises of every kind for what it did not write
        raise NoStateDict(f"no whole file of torch.save ({_first_line(error)})") from error


def _state_dict(loaded: Any) -> tuple[str | None, Mapping[str, torch.Tensor]]:
    """The state dict in what was loaded, and its key. NoStateDict where there is none."""
    if not isinstance(loaded, Mapping):
        raise NoStateDict(f"it holds a {type(loaded).__name__}, no state dict; {REMEDY}")
    for under in (None, *WRAPPERS):
        found = loaded if under is None else loaded.get(under)
        if isinstance(found, Mapping) and any(isinstance(v, torch.Tensor) for v in found.values()):
            if under is None and any(isinstance(loaded.get(key), Mapping) for key in WRAPPERS):
                continue  # a number of the training, as a tensor, beside the state dict
            for name, value in found.items():
                if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                    raise NoStateDict(
                        f"its entry {name!r:.100} is a {type(value).__name__}, no tensor; {REMEDY}"
                    )
            return under, found
    keys = ", ".join(f"{key!r:.40}" for key in list(loaded)[:8])
    raise NoStateDict(
        f"it holds no state dict, neither as a whole nor as {', '.join(WRAPPERS)}, "
        f"but {keys or 'nothing'}; {REMEDY}"
    )


def _tensors(
    state_dict: Mapping[str, torch.Tensor], most_bytes: int
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, in a storage of its own, and the names of those that are others' again."""
    tensors: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple, str] = {}
    for name, tensor in state_dict.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise NoStateDict(
                f"{name!r:.100} is no plain tensor ({tensor.layout}, {tensor.device.type})"
            )
        storage = tensor.untyped_storage()
        if tensor.nbytes > storage.nbytes():
            raise NoStateDict(
                f"{name!r:.100} of shape {tuple(tensor.shape)!s:.60} has {storage.nbytes():,} "
                f"bytes in the file"
            )
        place = (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        key = (*place, tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        most_bytes -= tensor.nbytes
        if most_bytes < 0:
            raise NoStateDict("its tensors would take many times what the file holds")
        own = tensor.is_contiguous() and tensor.nbytes == storage.nbytes()
        tensors[name] = tensor.detach() if own else tensor.detach().contiguous().clone()
    return tensors, aliases


def _plain(value: Any) -> Any:
    """A value of JSON's types; DROPPED for any other."""
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        value = value.item()
    if isinstance(value, Mapping):
        plain = {k: _plain(v) for k, v in value.items() if isinstance(k, str)}
        return {k: v for k, v in plain.items() if v is not DROPPED}
    if isinstance(value, list | tuple):
        plain = [_plain(v) for v in value]
        return DROPPED if any(v is DROPPED for v in plain) else plain
    return value if value is None or isinstance(value, bool | int | float | str) else DROPPED


def _ends_within(path: Path, name: str) -> bool:
    """Whether a pickle is cut off in a class's name, of which all but the last byte was read."""
    return path.read_bytes()[:-1].endswith(name.rpartition(".")[2].encode())


def _first_line(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0]
    kind = type(error).__name__
    return f"{kind}: {textwrap.shorten(line, 120, placeholder=' …')}" if line else kind


def _bound_memory(path: Path) -> None:
    """A file that lies about its sizes ends this program, not the machine."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    try:
        taken = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return
    if taken is not None:
        limit = 1024 * int(taken[1]) + 4 * path.stat().st_size + SPARE
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["read", path, folder]:
                _bound_memory(Path(path))
                read(Path(path), Path(folder))
            case ["write", folder, path]:
                write(Path(folder), Path(path))
            case _:
                raise NoStateDict("read PATH FOLDER, or write FOLDER PATH")
    except NoStateDict as refusal:
        print(refusal, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"it cannot be read or written ({error.strerror or error})", file=sys.stderr)
        return 2
    except MemoryError:
        print("it would take more memory than a file of its size may", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
