"""What the commands on an environment's versions do, against a real hub: cli/versions.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import main

Capture = pytest.CaptureFixture[str]

ENTRY = "def load_environment(): ...\n"


@pytest.fixture
def three(project: Path, fake_stack: Any, capsys: Capture) -> list[str]:
    """The versions of `sums`, in the order in which they were pushed; the folder holds the last one's files."""
    pushed = []
    for text in ("one\n", "two\n", "two\nthree\n"):
        (project / "environment.py").write_text(ENTRY)
        (project / "notes.md").write_text(text)
        assert main(["env", "push", "--name", "sums", "--json"]) == 0
        pushed.append(json.loads(capsys.readouterr().out)["version"])
    return pushed


def data(capsys: Capture) -> Any:
    return json.loads(capsys.readouterr().out)


def refused(capsys: Capture, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 1
    return capsys.readouterr().err


def meant(capsys: Capture, environment: str = "sums") -> str:
    assert main(["env", "show", environment]) == 0
    return str(data(capsys)["version"]["version"])


def test_versions_are_listed_with_what_became_of_them(three: list[str], capsys: Capture) -> None:
    main(["env", "delete", f"sums@{three[1]}", "-y"])
    capsys.readouterr()

    assert main(["env", "versions", "sums"]) == 0

    assert [(v["version"], v["state"]) for v in data(capsys)] == [
        (three[2], "current"), (three[1], "withdrawn"), (three[0], ""),
    ]  # fmt: skip


def test_a_version_is_shown_as_people_read_it(
    three: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.output.wants_json", lambda options: False)

    assert main(["env", "show", "local/sums"]) == 0

    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"local/sums@{three[2]} (current)"
    assert "rows       eval 2, train 3" in lines
    assert lines[-1] == "used by    0 runs"


def test_what_changed_is_shown_as_a_diff(three: list[str], capsys: Capture, project: Path) -> None:
    assert main(["env", "diff", "sums"]) == 0
    found = data(capsys)
    (change,) = found["changes"]
    assert (found["old"], found["new"]) == (f"local/sums@{three[1]}", f"local/sums@{three[2]}")
    assert (change["path"], change["kind"]) == ("notes.md", "changed")
    assert change["lines"] == ["--- a/notes.md", "+++ b/notes.md", "@@ -1 +1,2 @@", " two", "+three"]

    main(["env", "diff", f"sums@{three[0]}", f"@{three[1]}"])
    assert data(capsys)["changes"][0]["lines"][-2:] == ["-one", "+two"]
    main(["env", "diff", f"sums@{three[0]}"])
    assert data(capsys)["new"] == f"local/sums@{three[2]}"


def test_a_folder_is_compared_as_it_would_be_packed(three: list[str], capsys: Capture, project: Path) -> None:
    (project / "notes.md").unlink()
    (project / "words.txt").write_bytes(b"\xff\xfe")
    (project / ".hidden").write_text("")

    assert main(["env", "diff", "sums", "."]) == 0

    changes = {change["path"]: change for change in data(capsys)["changes"]}
    assert {path: change["kind"] for path, change in changes.items()} == {"notes.md": "removed", "words.txt": "added"}
    assert changes["words.txt"]["lines"][-1] == "@@ nothing became 2 B; too large, or no text @@"


def test_the_first_version_has_none_before_it_to_compare(project: Path, fake_stack: Any, capsys: Capture) -> None:
    (project / "environment.py").write_text(ENTRY)
    main(["env", "push", "--name", "sums"])

    assert "has nothing published before its newest version" in refused(capsys, "env", "diff", "sums")


def test_a_pulled_folder_is_what_was_pushed(three: list[str], capsys: Capture, project: Path) -> None:
    assert main(["env", "pull", f"sums@{three[0]}"]) == 0
    assert main(["env", "pull", "sums", "copies/mine"]) == 0

    assert (project / "sums/notes.md").read_text() == "one\n"
    assert sorted(path.name for path in (project / "copies/mine").iterdir()) == ["environment.py", "notes.md"]


def test_a_pull_writes_over_nothing_unless_it_is_told_to(three: list[str], capsys: Capture, project: Path) -> None:
    mine = project / "sums"
    mine.mkdir()
    (mine / "own.py").write_text("mine\n")
    (project / "precious").write_text("mine\n")
    (mine / "notes.md").symlink_to(project / "precious")

    assert "sums is there already: -f writes over its files, or name another folder" in refused(
        capsys, "env", "pull", "sums"
    )
    assert main(["env", "pull", "sums", "-f"]) == 0

    assert (mine / "notes.md").read_text() == "two\nthree\n"
    assert (mine / "own.py").read_text() == (project / "precious").read_text() == "mine\n"


def test_a_rollback_moves_what_the_bare_id_means(three: list[str], capsys: Capture) -> None:
    assert main(["env", "rollback", "sums"]) == 0
    assert capsys.readouterr().out == f"local/sums is now local/sums@{three[1]}\n"
    assert meant(capsys) == three[1]

    assert main(["env", "rollback", f"sums@{three[0]}"]) == 0
    capsys.readouterr()
    assert meant(capsys) == three[0]


def test_a_deletion_asks_and_does_nothing_where_nobody_answers(three: list[str], capsys: Capture) -> None:
    assert "this would delete local/sums with 3 versions for good: -y says that it shall" in refused(
        capsys, "env", "delete", "sums"
    )
    assert meant(capsys) == three[2]

    assert main(["env", "delete", "sums", "-y"]) == 0

    assert capsys.readouterr().out == "deleted local/sums with 3 versions\n"
    assert "there is no environment local/sums" in refused(capsys, "env", "show", "sums")


def test_a_person_who_says_no_keeps_it(three: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for said, code in (("", 1), ("n", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda said=said: said)
        assert main(["env", "delete", f"sums@{three[0]}"]) == code

    capsys.readouterr()
    main(["env", "versions", "sums"])
    assert [v["state"] for v in data(capsys)] == ["current", "", "withdrawn"]


def test_a_withdrawn_version_is_refused_before_a_run_is_queued(
    three: list[str], fake_stack: Any, capsys: Capture, project: Path
) -> None:
    main(["env", "delete", f"sums@{three[0]}", "-y"])
    main(["env", "setup", "-y"])
    pinned = f"environment.id=local/sums@{three[0]}"

    said = refused(capsys, "train", "configs/rl.toml", "--set", pinned)

    assert f"local/sums@{three[0]} was withdrawn: `flash env versions local/sums` lists what can be used" in said
    assert fake_stack.specs == []


def test_what_is_deleted_leaves_no_copy_on_the_machine_that_looked_at_it(
    three: list[str], project: Path, capsys: Capture
) -> None:
    cache = project.parent / "home/cache/environments"
    main(["env", "diff", f"sums@{three[0]}", f"sums@{three[1]}"])
    assert len(list(cache.iterdir())) == 2

    main(["env", "delete", f"sums@{three[0]}", "-y"])
    assert [copy.name[:12] for copy in cache.iterdir()] == [three[1]]
    main(["env", "delete", "sums", "-y"])

    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("command", ["show", "versions", "diff", "pull", "rollback", "delete"])
@pytest.mark.parametrize("environment", ["nowhere", "local/nowhere@0123456789ab"])
def test_an_environment_that_is_not_there_is_one_sentence(
    project: Path, fake_stack: Any, capsys: Capture, command: str, environment: str
) -> None:
    assert refused(capsys, "env", command, environment).startswith("error: there is no environment local/nowhere: ")


@pytest.mark.parametrize("text", ["a b", "Sums", "x/y/z", "sums@", "../sums"])
def test_what_is_no_id_is_said_to_be(project: Path, fake_stack: Any, capsys: Capture, text: str) -> None:
    assert "is no environment: NAME, org/name or org/name@version is wanted" in refused(capsys, "env", "show", text)
