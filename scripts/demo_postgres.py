"""A Postgres of a demo's own, in its folder.

INFLIGHT_BIN says where the programs are.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

from demo_run import Failed

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import pg_server  # noqa: E402

SOCKET_LIMIT = 107 - len("/inflight-test-12345678/socket/.s.PGSQL.12345")  # sockaddr_un, unix(7)


def postgres(folder, group, command):
    """Not started yet. `group` of scripts/setup installs it, and so does `command`, which the user has called."""
    another = f"another folder: TMPDIR=FOLDER {command}"
    if not (pg_server.BIN / "initdb").exists():
        raise Failed(f"not installed: postgresql; {command} installs it, or scripts/setup {group}")
    if len(folder) > SOCKET_LIMIT:
        raise Failed(f"{folder}: too long a name for the socket of Postgres in it; {another}")
    os.chmod(folder, 0o711)
    if pg_server.AS and subprocess.run([*pg_server.AS, "test", "-x", folder], check=False).returncode != 0:
        raise Failed(f"{folder}: the user postgres, as whom Postgres runs, has no way to it; {another}")
    tempfile.tempdir = folder  # where servers make theirs
    return pg_server.Postgres()
