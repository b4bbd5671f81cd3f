"""Where a rollout's chance comes from."""

from services.rollout.seeds import rollout_seed


def test_no_two_rollouts_of_a_run_share_a_seed() -> None:
    places = [
        (scope, step, group, i)
        for scope in ("train", "eval")
        for step in range(5)
        for group in range(9)
        for i in range(8)
    ]

    seeds = {rollout_seed(42, scope, step, group, i) for scope, step, group, i in places}

    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_a_seed_depends_on_the_place_and_the_runs_seed_alone_and_never_changes() -> None:
    assert rollout_seed(42, "train", 1, 0, 0) == 10354712134150762668
    assert rollout_seed(43, "train", 1, 0, 0) != rollout_seed(42, "train", 1, 0, 0)
