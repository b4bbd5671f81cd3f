"""The attacks by kind."""

FILES = [
    "read_canary", "read_passwd", "list_beside_the_canary", "read_canary_by_symlink", "read_canary_by_another_root",
    "read_another_environment", "write_where_all_may", "make_a_folder_at_the_root_of_the_canary", "rename_the_canary",
    "change_ones_own_package", "change_an_installed_package", "make_a_device",
]  # fmt: skip
PROC = [
    "read_environments_of_others", "read_commands_of_others", "inherit_the_secret", "read_memory_of_a_victim",
    "open_a_kernel_setting", "read_the_kernels_keys",
]  # fmt: skip
NETWORK = [
    "connect_to_the_bus", "send_a_datagram", "connect_to_a_socket_by_path", "connect_to_an_abstract_socket",
    "open_a_packet_socket", "open_a_raw_socket", "open_netlinks_audit",
]  # fmt: skip
RESOURCES = [
    "fill_the_disk", "make_a_sparse_giant", "take_memory", "map_memory", "take_memory_in_many_processes",
    "hide_memory_in_files_of_memory", "hide_memory_in_shm", "leave_a_segment", "fork_generations",
    "start_many_threads", "open_many_files", "raise_ones_limits", "leave_a_daemon", "outlive_ones_parent",
]  # fmt: skip
KERNEL = [
    "trace_a_victim", "read_from_a_victim", "make_a_user_namespace", "mount_something", "change_the_root",
    "keep_a_key", "make_a_map_of_bpf", "set_up_io_uring", "count_the_machines_events", "handle_ones_own_faults",
    "become_root", "change_personality", "read_the_kernels_log", "open_by_handle", "use_the_old_gate",
]  # fmt: skip
SIGNALS = ["kill_a_victim", "kill_the_service", "kill_ones_parent", "stop_ones_parent"]
TIME = ["sleep_for_an_hour", "match_for_ever", "turn_a_deaf_ear", "stop_oneself"]
CHANNEL = ["speak_nonsense", "promise_a_giant", "break_off", "answer_for_strangers", "hang_up", "vanish", "crash"]
LEFT = ["poison_the_sdk", "leave_files_behind", "hang_at_the_end", "flood_the_output", "count_for_ever"]
