"""Unpacked environments: flash/artifacts/copies.py."""

import os
import subprocess
import sys
from pathlib import Path

from flash.artifacts.copies import hold, holding, remove


def copy_in(tmp_path: Path) -> Path:
    folder = tmp_path / "d1"
    (folder / "dataset").mkdir(parents=True)
    (folder / "dataset/train.jsonl").write_text("{}")
    return folder


def test_what_nobody_works_in_goes_and_leaves_nothing(tmp_path: Path) -> None:
    folder = copy_in(tmp_path)

    assert remove(folder)
    assert remove(folder)

    assert list(tmp_path.iterdir()) == []
    assert hold(folder) is None


def test_what_somebody_works_in_stays_until_the_last_lets_go(tmp_path: Path) -> None:
    folder = copy_in(tmp_path)
    held = hold(folder)
    assert held is not None

    with holding(folder):
        os.close(held)
        assert not remove(folder)
        assert (folder / "dataset/train.jsonl").is_file()

    assert remove(folder)


def test_another_process_that_works_in_it_is_seen_and_its_death_too(tmp_path: Path) -> None:
    folder = copy_in(tmp_path)
    code = "import sys; from pathlib import Path; from flash.artifacts.copies import hold; " + (
        "print(hold(Path(sys.argv[1])), flush=True); input()"
    )
    words = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert int(other.stdout.readline()) > 0

        assert not remove(folder)

        other.kill()
    assert remove(folder)
