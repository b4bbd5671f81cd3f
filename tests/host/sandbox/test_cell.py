"""What is made for a host, and is gone with it."""

import os
import stat
from pathlib import Path

import pytest

from flash.host.sandbox import cell
from flash.host.sandbox.cell import remove_tree


def test_a_folder_closed_to_its_owner_goes_and_nothing_around_it_is_touched(tmp_path: Path) -> None:
    around = tmp_path / "around"
    folder = around / "host"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").touch()
    os.symlink(tmp_path, folder / "link")
    around.chmod(0o1755)
    (folder / "a").chmod(0)

    remove_tree(folder)
    remove_tree(folder)  # gone already

    assert not folder.exists()
    assert tmp_path.is_dir()
    assert stat.S_IMODE(around.stat().st_mode) == 0o1755


def test_what_a_killed_process_has_left_is_removed_and_what_a_living_one_has_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    names = (f"flash-host-{2**30}-left", f"flash-host-{os.getpid()}-ours", "flash-host-other", "another")
    for name in names:
        (tmp_path / name).mkdir()

    cell._tidy.__wrapped__()

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
