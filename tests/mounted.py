"""A mounted Secret, as the kubelet keeps it: files behind the symlink `..data`, which it swaps for all at once."""

import io
from contextlib import redirect_stdout
from pathlib import Path

from certs.__main__ import main as certs


def renew(directory: Path) -> None:
    """A new CA and a new pair of it in `directory`, which is made if there is none."""
    directory.mkdir(exist_ok=True)
    generation = f"..{len(list(directory.glob('..[0-9]*')))}"
    with redirect_stdout(io.StringIO()):
        assert certs(["dev", str(directory / generation)]) == 0
    (directory / "..data_tmp").symlink_to(generation)
    (directory / "..data_tmp").replace(directory / "..data")
    for name in ("ca.crt", "tls.crt", "tls.key"):
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
