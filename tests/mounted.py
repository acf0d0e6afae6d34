"""A mounted Secret, as the kubelet keeps it: files behind the symlink `..data`, which it swaps for all at once."""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

from certs.__main__ import main as certs


def renew(directory: Path) -> None:
    """A new CA and a new pair of it in `directory`, which is made if there is none."""
    generation = _next(directory)
    with redirect_stdout(io.StringIO()):
        assert certs(["dev", str(generation)]) == 0
    _swap(directory, generation)


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """These files, all at once, in the place of those that were there."""
    generation = _next(directory)
    generation.mkdir()
    for name, content in files.items():
        (generation / name).write_bytes(content)
    _swap(directory, generation)


def _next(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory / f"..{len(list(directory.glob('..[0-9]*')))}"


def _swap(directory: Path, generation: Path) -> None:
    (directory / "..data_tmp").symlink_to(generation.name)
    (directory / "..data_tmp").replace(directory / "..data")
    for file in generation.iterdir():
        if not (directory / file.name).is_symlink():
            (directory / file.name).symlink_to(f"..data/{file.name}")
