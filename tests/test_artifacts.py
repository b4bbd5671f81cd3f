"""Packing an environment folder, and unpacking what may come from anywhere."""

import filecmp
import hashlib
import io
import os
import re
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import zstandard

from flash.artifacts import pack, unpack
from flash.contracts.environments import ArchiveLimits
from flash.errors import Damaged, EnvironmentFault

SMALL = ArchiveLimits(packed_bytes=20_000, unpacked_bytes=50_000, members=10)


def folder(tmp_path: Path, **files: str) -> Path:
    """A folder with `environment.py` and more; `__` in a name is a slash, `_dot_` a dot."""
    root = tmp_path / "env"
    for name, content in {"environment_dot_py": "x = 1\n", **files}.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def archive(*members: tuple[tarfile.TarInfo, bytes], entry: bool = True) -> tuple[bytes, str]:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for info, content in [*([(tarfile.TarInfo("environment.py"), b"x = 1\n")] if entry else []), *members]:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = zstandard.ZstdCompressor().compress(packed.getvalue())
    return data, hashlib.sha256(data).hexdigest()


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_what_is_packed_comes_out_again(tmp_path: Path) -> None:
    root = folder(tmp_path, helpers_dot_py="y = 2\n", dataset__train_dot_jsonl='{"input": "ü"}\n')

    packed = pack(root)
    unpack(packed.file, tmp_path / "out", packed.digest)

    assert names(tmp_path / "out") == {"environment.py", "helpers.py", "dataset/train.jsonl"}
    assert (tmp_path / "out/dataset/train.jsonl").read_text() == '{"input": "ü"}\n'
    assert [file.path for file in packed.manifest.included] == ["dataset/train.jsonl", "environment.py", "helpers.py"]


def test_the_same_files_give_the_same_digest_whenever_they_were_written(tmp_path: Path) -> None:
    first = pack(folder(tmp_path / "a", helpers_dot_py="y = 2\n"))
    other = folder(tmp_path / "b", helpers_dot_py="y = 2\n")
    os.utime(other / "environment.py", (1, 1))
    os.chmod(other / "helpers.py", 0o700)

    assert pack(other).digest == first.digest == hashlib.sha256(first.data).hexdigest()
    assert pack(folder(tmp_path / "c", helpers_dot_py="y = 3\n")).digest != first.digest


def test_a_single_file_is_packed_as_environment_py(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")

    packed = pack(tmp_path / "mine.py")

    assert [file.path for file in packed.manifest.included] == ["environment.py"]


def test_what_stays_out_is_named_with_the_reason(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        package____init___dot_py="",
        _dot_env="SECRET=1",
        pyproject_dot_toml="",
        notes__a_dot_md="",
        datasets__train_dot_jsonl="",
        dataset___dot_hidden="",
        venv__pyvenv_dot_cfg="",
        model_dot_bin="",
        README_dot_md="hello",
    )
    (root / "package").mkdir(exist_ok=True)
    (root / "package/__init__.py").write_text("")
    (root / "package/__pycache__").mkdir()

    manifest = pack(root).manifest

    assert {file.path for file in manifest.included} == {"environment.py", "package/__init__.py", "README.md"}
    reasons = {left.path: left.reason for left in manifest.left_out}
    assert reasons[".env"] == reasons["dataset/.hidden"] == "hidden"
    assert "environment.pip" in reasons["pyproject.toml"]
    assert "`dataset`" in reasons["datasets/"]
    assert reasons["venv/"] == "a virtual environment"
    assert reasons["package/__pycache__/"] == "compiled Python"
    assert {"notes/", "model.bin"} <= reasons.keys()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("secrets.yaml", "a: b", "named like a secret"),
        ("dataset/id_rsa", "x", "named like a secret"),
        ("credentials.json", "{}", "named like a secret"),
        ("helpers.py", "\n\nKEY = '-----BEGIN RSA PRIVATE KEY-----'", "line 3 holds a private key"),
        ("dataset/train.jsonl", "AKIA" + "B" * 16, "an AWS access key"),
        ("helpers.py", "token = 'hf_" + "a" * 34 + "'", "a Hugging Face token"),
        ("helpers.py", "token = 'sk-proj-" + "a" * 40 + "'", "an API key"),
    ],
)
def test_secrets_are_refused_by_name_and_by_content(tmp_path: Path, name: str, content: str, said: str) -> None:
    root = folder(tmp_path)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(content)

    with pytest.raises(EnvironmentFault, match=said) as refused:
        pack(root)

    assert name in str(refused.value)
    assert "a" * 34 not in str(refused.value)


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    linked = folder(tmp_path / "a")
    (linked / "helpers.py").symlink_to("/etc/passwd")
    odd = folder(tmp_path / "b", dataset__train_dot_jsonl="")
    os.mkfifo(odd / "dataset/pipe")
    outside = folder(tmp_path / "c")
    (outside / "dataset").symlink_to(tmp_path)

    for root, said in ((linked, "is a link"), (odd, "no plain file"), (outside, "is a link")):
        with pytest.raises(EnvironmentFault, match=said):
            pack(root)


def test_a_folder_over_a_limit_is_refused_naming_the_limit(tmp_path: Path) -> None:
    many = folder(tmp_path / "a", **{f"f{number}_dot_py": "" for number in range(11)})
    large = folder(tmp_path / "b", data_dot_txt="x" * 60_000)
    dense = folder(tmp_path / "c")
    (dense / "data.txt").write_bytes(os.urandom(30_000))

    for root, said in (
        (many, "12 files, at most 10 are taken (FLASH_MAX_MEMBERS"),
        (large, "60,006 bytes, at most 50,000 are taken (FLASH_MAX_UNPACKED_BYTES"),
        (dense, "is more than 20,000 bytes packed, which is the most that is taken (FLASH_MAX_PACKED_BYTES"),
    ):
        with pytest.raises(EnvironmentFault, match=re.escape(said)):
            pack(root, SMALL)


def test_what_is_no_python_or_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    broken = folder(tmp_path / "a")
    (broken / "environment.py").write_text("x = 1\ndef load(:\n")
    odd = folder(tmp_path / "b", dataset__train_dot_jsonl="")
    (Path(os.fsdecode(os.fsencode(odd / "dataset") + b"/\xff.txt"))).write_text("")

    with pytest.raises(EnvironmentFault, match=r"environment\.py line 2 is no Python: invalid syntax"):
        pack(broken)
    with pytest.raises(EnvironmentFault, match=r"dataset/\ufffd\.txt has a name that is not UTF-8; rename it"):
        pack(odd)


@pytest.mark.parametrize(("num_bytes", "said"), [(999, "data.txt was cut short"), (2_000, "data.txt grew")])
def test_a_file_that_changes_while_it_is_packed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, said: str
) -> None:
    root = folder(tmp_path, data_dot_txt="x" * 1_000)
    opened = Path.open

    def altered(path: Path, *how: Any) -> Any:
        if path.name == "data.txt":
            os.truncate(path, num_bytes)
        return opened(path, *how)

    monkeypatch.setattr(Path, "open", altered)

    with pytest.raises(EnvironmentFault, match=said):
        pack(root)


def test_a_large_folder_is_packed_and_unpacked_in_little_memory(tmp_path: Path) -> None:
    root = folder(tmp_path)
    with (root / "data.txt").open("wb") as file:
        for _ in range(32):
            file.write(os.urandom(1 << 18) * 4)  # 32 MiB, of which a quarter is new
    limits = ArchiveLimits(packed_bytes=64 << 20, unpacked_bytes=128 << 20)
    tracemalloc.start()

    packed = pack(root, limits)
    unpack(packed.file, tmp_path / "out", packed.digest, limits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert packed.num_bytes > 8 << 20
    assert peak < 16 << 20
    assert filecmp.cmp(root / "data.txt", tmp_path / "out/data.txt", shallow=False)


def test_a_folder_without_an_entry_cannot_be_packed(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"no environment\.py"):
        pack(tmp_path)
    with pytest.raises(EnvironmentFault, match="is not there"):
        pack(tmp_path / "nowhere")


@pytest.mark.parametrize("place", ["my_task.py", "my_task/__init__.py"])
def test_a_package_named_in_its_pyproject_is_entered_through_the_module_of_that_name(
    tmp_path: Path, place: str
) -> None:
    folder = tmp_path / "task"
    (folder / place).parent.mkdir(parents=True)
    (folder / place).write_text("def load_environment(): return 7\n")
    (folder / "pyproject.toml").write_text('[project]\nname = "my-task"\n')

    packed = pack(folder)
    unpack(packed.file, tmp_path / "out", packed.digest)

    said = (tmp_path / "out" / "environment.py").read_text()
    assert said == "from my_task import load_environment as load_environment\n"
    assert pack(folder).digest == packed.digest


def test_a_package_without_the_module_that_it_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "my-task"\n')

    with pytest.raises(EnvironmentFault, match=r"nor a my_task\.py"):
        pack(tmp_path)


def test_an_archive_with_another_digest_is_damaged(tmp_path: Path) -> None:
    data, _ = archive()

    with pytest.raises(Damaged):
        unpack(io.BytesIO(data), tmp_path / "out", "0" * 64)

    assert not (tmp_path / "out").exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        (member("../outside.py"), "leads out"),
        (member("/etc/outside.py"), "leads out"),
        (member("a/../../outside.py"), "leads out"),
        (member("a\\..\\outside.py"), "leads out"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "no plain file"),
        (member("link", tarfile.LNKTYPE, "environment.py"), "no plain file"),
        (member("device", tarfile.CHRTYPE), "no plain file"),
        (member("pipe", tarfile.FIFOTYPE), "no plain file"),
        (member("environment.py"), "twice"),
        (member(".env"), "hidden or named like a secret"),
        (member("dataset/.git/config"), "hidden or named like a secret"),
        (member("dataset/id_rsa"), "hidden or named like a secret"),
    ],
)
def test_an_archive_that_reaches_out_of_its_folder_is_refused(
    tmp_path: Path, hostile: tarfile.TarInfo, said: str
) -> None:
    data, digest = archive((hostile, b""))

    with pytest.raises(EnvironmentFault, match=said):
        unpack(io.BytesIO(data), tmp_path / "in/out", digest)

    assert names(tmp_path) == set()
    assert list((tmp_path / "in").iterdir()) == []


def test_an_archive_over_a_limit_is_refused_before_it_fills_the_disk(tmp_path: Path) -> None:
    bomb, bomb_digest = archive((member("zeros.txt"), b"\0" * (30 << 20)))
    crowd, crowd_digest = archive(*((member(f"f{number}.py"), b"") for number in range(20)))

    with pytest.raises(EnvironmentFault, match="at most 50,000"):
        unpack(io.BytesIO(bomb), tmp_path / "bomb", bomb_digest, SMALL)
    with pytest.raises(EnvironmentFault, match="more than 10 files"):
        unpack(io.BytesIO(crowd), tmp_path / "crowd", crowd_digest, SMALL)


def test_an_archive_of_nonsense_is_refused(tmp_path: Path) -> None:
    for data in (b"", b"nonsense", zstandard.ZstdCompressor().compress(b"nonsense" * 200)):
        with pytest.raises(EnvironmentFault):
            unpack(io.BytesIO(data), tmp_path / "out", hashlib.sha256(data).hexdigest())


def test_an_archive_without_an_entry_is_refused(tmp_path: Path) -> None:
    data, digest = archive((member("other.py"), b""), entry=False)

    with pytest.raises(EnvironmentFault, match=r"no environment\.py"):
        unpack(io.BytesIO(data), tmp_path / "out", digest)


def test_unpacking_twice_leaves_the_first_as_it_is(tmp_path: Path) -> None:
    packed = pack(folder(tmp_path))
    unpack(packed.file, tmp_path / "out", packed.digest)

    unpack(packed.file, tmp_path / "out", packed.digest)

    assert names(tmp_path / "out") == {"environment.py"}
