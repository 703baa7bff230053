"""The token that a Ray cluster asks for: one for a local Ray, and a warning if others may read it.

Ray itself would write the file with the mode that the umask leaves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

TOKEN_VARIABLE, PATH_VARIABLE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def ensure_local(on_note: Callable[[str], None]) -> None:
    """See that a local Ray finds a token: a new file of mode 0600, unless there is one.

    Where the home folder is missing or cannot be written, the token is for this process only.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if os.environ.get(TOKEN_VARIABLE) or os.environ.get(PATH_VARIABLE):
        warn_if_readable(on_note)
        return
    try:
        path = _default_path()
        if not path.exists():
            _create(path)
        path.read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: no home folder is known
        os.environ[TOKEN_VARIABLE] = _new_token()
    else:
        warn_if_readable(on_note)


def warn_if_readable(on_note: Callable[[str], None]) -> None:
    """Warn of a file with the token that other users may read."""
    if os.environ.get(TOKEN_VARIABLE):
        return
    with contextlib.suppress(OSError, RuntimeError):
        path = Path(os.environ.get(PATH_VARIABLE) or _default_path())
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            on_note(
                f"warning: other users may read the token of Ray, {path} (mode {mode:04o}), and "
                f"run programs as you with it; chmod 600 {path}, or delete it for a new one"
            )


def _default_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _create(path: Path) -> None:
    """Write a new token, completely or not at all, unless another process does at this time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # mode 0600
        file.write(_new_token().encode())
        file.flush()
        with contextlib.suppress(FileExistsError):
            os.link(file.name, path)


def _new_token() -> str:
    return secrets.token_hex(32)
