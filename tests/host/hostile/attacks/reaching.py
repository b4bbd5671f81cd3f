"""Reaching for what is not given: files, processes, networks."""

import contextlib
import os
import socket
import stat
import tempfile


def read_canary(world):
    with open(world["canary"]) as file:
        return file.read()


def read_passwd(world):
    with open("/etc/passwd") as file:
        return file.read()


def list_beside_the_canary(world):
    found = os.listdir(os.path.dirname(world["canary"]))
    return found if "canary" in found else None


def read_canary_by_symlink(world):
    link = tempfile.mkdtemp() + "/link"
    os.symlink(world["canary"], link)
    return open(link).read()


def read_canary_by_another_root(world):
    for root in ("/proc/1/root", "/proc/self/root", "/proc/self/cwd/../../../../../../.."):
        try:
            return open(root + world["canary"]).read()
        except OSError:
            continue
    raise OSError("no root leads there")


def read_another_environment(world):
    return open(world["other"] + "/environment.py").read()


def write_where_all_may(world):
    with open(world["open_folder"] + "/written", "w") as file:
        file.write("x")
    return "written"


def make_a_folder_at_the_root_of_the_canary(world):
    os.mkdir(world["open_folder"] + "/made")
    return "made"


def rename_the_canary(world):
    os.rename(world["open_folder"] + "/mine", world["open_folder"] + "/yours")
    return "renamed"


def change_ones_own_package(world):
    with open(os.path.dirname(os.path.abspath(__file__)) + "/planted.py", "w") as file:
        file.write("x = 1")
    return "planted"


def change_an_installed_package(world):
    import msgspec

    path = os.path.dirname(msgspec.__file__) + "/planted.py"
    with open(path, "w") as file:
        file.write("x = 1")
    os.unlink(path)
    return "planted"


def make_a_device(world):
    path = tempfile.mkdtemp() + "/device"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 1))
    return path


def read_environments_of_others(world):
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ") as file:
                if world["secret"] in file.read():
                    return entry
    return None


def read_commands_of_others(world):
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline") as file:
                if world["marker"] in file.read():
                    return entry
    return None


def inherit_the_secret(world):
    return next((name for name, value in os.environ.items() if world["secret"] in value), None)


def read_memory_of_a_victim(world):
    with open(f"/proc/{world['victim']}/maps") as maps:
        start = int(maps.readline().split("-")[0], 16)
    with open(f"/proc/{world['victim']}/mem", "rb") as memory:
        memory.seek(start)
        return memory.read(4).hex()


def open_a_kernel_setting(world):
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    return "opened"


def read_the_kernels_keys(world):
    os.close(os.open("/proc/kcore", os.O_RDONLY))
    return "opened"


def connect_to_the_bus(world):
    with socket.create_connection(("127.0.0.1", world["tcp"]), timeout=2) as made:
        made.sendall(b"PUB")
    return "sent"


def send_a_datagram(world):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", ("127.0.0.1", world["udp"]))
    return  # judged by who hears it


def connect_to_a_socket_by_path(world):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(world["unix"])
    return "connected"


def connect_to_an_abstract_socket(world):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("\0" + world["abstract"])
    return "connected"


def open_a_packet_socket(world):
    socket.socket(17, socket.SOCK_RAW, socket.htons(3)).close()
    return "opened"


def open_a_raw_socket(world):
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "opened"


def open_netlinks_audit(world):
    socket.socket(16, socket.SOCK_RAW, 9).close()
    return "opened"
