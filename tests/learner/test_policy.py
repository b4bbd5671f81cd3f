"""Policies on one base: the invariants of training, each on a random small model in float32."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from services.learner.batch import Answer, Tree
from services.learner.failures import CannotTrain, RunOver
from services.learner.loss import DrGrpo, Sft
from services.learner.policy import CONFIG, STATE, WEIGHTS, Base, Cut, Policy, digest_of
from services.learner.rows import micro_batches

LOSS = DrGrpo(normaliser=96.0)
CUT = Cut(max_tokens=64)


def logps(policy: Policy, trees: list[Tree], *, share: bool, max_tokens: int = 256) -> dict[tuple[int, int], float]:
    """By sequence and place in it."""
    found: dict[tuple[int, int], float] = {}
    for batch in micro_batches(trees, max_tokens=max_tokens, share=share):
        with torch.no_grad():
            logp_N, _ = policy.logprobs(batch)
        counts: dict[int, int] = {}
        for sequence, logp in zip(batch.sequence_N.tolist(), logp_N.tolist(), strict=True):
            place = counts[sequence] = counts.get(sequence, -1) + 1
            found[sequence, place] = logp
    return found


def by_hand(model: Any, trees: list[Tree]) -> dict[tuple[int, int], float]:
    """One plain pass a sequence."""
    found: dict[tuple[int, int], float] = {}
    answers = [(tree.prompt_ids, answer) for tree in trees for answer in tree.answers]
    for sequence, (prompt, answer) in enumerate(answers):
        ids = torch.tensor([[*prompt, *answer.ids_T]])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        for place, token in enumerate(answer.ids_T):
            found[sequence, place] = float(logits[len(prompt) + place - 1, token])
    return found


def gap(one: dict[tuple[int, int], float], other: dict[tuple[int, int], float]) -> float:
    assert one.keys() == other.keys()
    return max(abs(one[key] - other[key]) for key in one)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.fixture
def policy(base: Base, make: Any) -> Policy:
    stirred: Policy = make.stir(base.fresh(rank=4, alpha=8, seed=1))
    return stirred


def test_the_sampler_with_its_cache_and_the_learner_agree_on_every_token(policy: Policy, base: Base, make: Any) -> None:
    from transformers import DynamicCache

    prompt, drawn, sampled = make.random_ids(9, 3), [], []
    policy._model.set_adapter(policy._name)
    cache, ids = DynamicCache(config=base.model.config), torch.tensor([prompt])
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            logp = base.model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1].log_softmax(-1)
            drawn.append(int(torch.multinomial(logp.exp(), 1, generator=draw)))
            sampled.append(float(logp[drawn[-1]]))
            ids = torch.tensor([drawn[-1:]])

    trained = logps(policy, [Tree(prompt, (Answer(drawn, [1] * 20),))], share=True)

    assert max(abs(trained[0, t] - sampled[t]) for t in range(20)) < 1e-4


def test_sharing_padding_and_one_by_one_give_the_same_log_probabilities(policy: Policy, base: Base, make: Any) -> None:
    trees = [*make.random_trees(3, 4), make.random_trees(1, 1, seed=5)[0]]
    truth = by_hand(base.model, trees) if policy._model.set_adapter(policy._name) is None else {}

    for share in (True, False):
        for max_tokens in (16, 64, 1_024):
            assert gap(truth, logps(policy, trees, share=share, max_tokens=max_tokens)) < 1e-4


def test_sharing_and_padding_give_the_same_gradient(policy: Policy, base: Base, make: Any) -> None:
    trees = make.random_trees()
    shared, shared_loss = make.gradient(policy, trees, LOSS)
    base.capabilities = type(base.capabilities)(share=False, split_head=True)
    padded, padded_loss = make.gradient(policy, trees, LOSS)
    base.capabilities = type(base.capabilities)(share=False, split_head=False)
    whole, _ = make.gradient(policy, trees, LOSS)

    assert shared_loss == pytest.approx(padded_loss, abs=1e-6)
    assert distance(padded, shared) < 1e-5
    assert distance(padded, whole) < 1e-5


def test_packed_conversations_give_the_padded_sft_loss_and_gradient(policy: Policy, base: Base, make: Any) -> None:
    trees = [
        Tree((), (Answer(make.random_ids(n, n), [0] * (n // 2) + [1] * (n - n // 2)),)) for n in (12, 5, 4, 9, 3, 7)
    ]
    loss = Sft(normaliser=float(sum(sum(tree.answers[0].mask_T) for tree in trees)))
    packed, packed_loss = make.gradient(policy, trees, loss)
    base.capabilities = type(base.capabilities)(share=False, split_head=True)
    padded, padded_loss = make.gradient(policy, trees, loss)

    assert packed_loss == pytest.approx(padded_loss, abs=1e-5)
    assert distance(padded, packed) < 1e-5


def test_however_a_step_is_cut_its_gradient_is_the_same(policy: Policy, make: Any) -> None:
    trees = make.random_trees(8, 8)
    whole, loss = make.gradient(policy, trees, LOSS)

    for max_tokens in (16, 64, 200):
        cut, cut_loss = make.gradient(policy, trees, LOSS, max_tokens=max_tokens)
        assert cut_loss == pytest.approx(loss, abs=1e-5)
        assert distance(whole, cut) < 1e-5


def test_logits_held_piece_by_piece_give_the_same_gradient(
    policy: Policy, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = make.gradient(policy, make.random_trees(), LOSS)
    monkeypatch.setattr("services.learner.forward.LOGITS_AT_ONCE", 64 * 5)
    pieces, _ = make.gradient(policy, make.random_trees(), LOSS)

    assert distance(whole, pieces) < 1e-5


def test_tokens_that_the_environment_wrote_teach_nothing_but_are_seen(policy: Policy, make: Any) -> None:
    prompt, said, tool, more = (make.random_ids(n, n) for n in (5, 4, 3, 2))

    def turns(tool: list[int], logp_tool: float) -> Tree:
        mask, logp = [1] * 4 + [0] * 3 + [1] * 2, [-3.0] * 4 + [logp_tool] * 3 + [-3.0] * 2
        return Tree(prompt, (Answer(said + tool + more, mask, logp, 1.0),))

    one, _ = make.gradient(policy, [turns(tool, 0.0)], LOSS)
    other_logp, _ = make.gradient(policy, [turns(tool, 99.0)], LOSS)
    other_tool, _ = make.gradient(policy, [turns(make.random_ids(3, 50), 0.0)], LOSS)
    batches = micro_batches([turns(tool, 0.0)], max_tokens=64, share=True)

    assert torch.equal(one, other_logp)
    assert not torch.equal(one, other_tool)
    assert batches[0].target_N.tolist() == said + more


def test_the_closing_token_is_learned(make: Any) -> None:
    (batch,) = micro_batches([Tree([1], (Answer([5, 6, 2], [1, 1, 1]),))], max_tokens=64, share=True)

    assert batch.target_N.tolist() == [5, 6, 2]


def test_both_sides_divide_the_logits_by_the_temperature(policy: Policy, base: Base, make: Any) -> None:
    (tree, *_) = make.random_trees(1, 1)
    (batch,) = micro_batches([tree], max_tokens=64, share=True)
    with torch.no_grad():
        found, entropy = policy.logprobs(batch, temperature=0.5)
        ids = torch.tensor([[*tree.prompt_ids, *tree.answers[0].ids_T]])
        logp = (base.model(input_ids=ids, use_cache=False).logits[0] / 0.5).log_softmax(-1)[
            len(tree.prompt_ids) - 1 : -1
        ]
    truth = logp.gather(1, torch.tensor(tree.answers[0].ids_T)[:, None])[:, 0]

    assert torch.allclose(found, truth, atol=1e-4)
    assert torch.allclose(entropy, torch.distributions.Categorical(logits=logp).entropy(), atol=1e-4)


def test_on_the_first_update_the_ratio_is_one_and_nothing_is_clipped(policy: Policy, make: Any) -> None:
    metrics = policy.update(make.random_trees(), LOSS, learning_rate=1e-3, cut=CUT).metrics

    assert metrics["clip_share"] == 0.0


def test_the_reference_is_the_base_so_a_fresh_policy_has_exactly_no_divergence(base: Base, make: Any) -> None:
    loss = DrGrpo(normaliser=96.0, kl_coef=0.1)
    fresh = base.fresh(rank=4, alpha=8, seed=1)
    warm = base.load_adapter(make.stir(base.fresh(rank=4, alpha=8, seed=1)).files())

    assert fresh.update(make.random_trees(), loss, learning_rate=0.0, cut=CUT).metrics["kl"] == 0.0
    assert warm.update(make.random_trees(), loss, learning_rate=0.0, cut=CUT).metrics["kl"] > 1e-3


def test_the_same_seed_gives_the_same_start_bit_for_bit_whoever_else_trains(make: Any) -> None:
    alone = Base(make.random_qwen3(), "random").fresh(rank=4, alpha=8, seed=5)
    crowded = Base(make.random_qwen3(), "random")
    other = crowded.fresh(rank=2, alpha=8, seed=1)
    other.update(make.random_trees(), LOSS, learning_rate=1e-2, cut=CUT)

    assert crowded.fresh(rank=4, alpha=8, seed=5).files() == alone.files()
    assert digest_of(crowded.fresh(rank=4, alpha=8, seed=6).files()) != digest_of(alone.files())


def test_two_runs_on_one_base_do_not_touch_each_other(base: Base, make: Any) -> None:
    def train(policy: Policy, seed: int) -> None:
        policy.update(make.random_trees(seed=seed), LOSS, learning_rate=1e-2, cut=CUT)

    alone = base.fresh(rank=4, alpha=8, seed=1)
    for seed in range(3):
        train(alone, seed)
    one, other = base.fresh(rank=4, alpha=8, seed=1), base.fresh(rank=2, alpha=4, seed=2)
    for seed in range(3):
        train(one, seed)
        train(other, seed + 10)

    assert one.files() == alone.files()


def test_training_never_touches_the_base(base: Base, make: Any) -> None:
    def digest() -> str:
        weights = sorted((name, w) for name, w in base.model.named_parameters() if "lora" not in name)
        return hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for _, weight in weights)).hexdigest()

    policy = base.fresh(rank=4, alpha=8, seed=1)
    before = digest()
    for seed in range(3):
        policy.update(make.random_trees(seed=seed), LOSS, learning_rate=1e-1, cut=CUT)
    policy.release()

    assert digest() == before


def test_a_saved_adapter_loads_in_peft_and_says_the_same_merged_or_not(
    policy: Policy, make: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    for name, data in policy.files().items():
        (tmp_path / name).write_bytes(data)
    trees = make.random_trees()
    trained = logps(policy, trees, share=True)
    loaded = PeftModel.from_pretrained(make.random_qwen3(), str(tmp_path)).eval()

    assert gap(by_hand(loaded, trees), trained) < 1e-4
    assert gap(by_hand(loaded.merge_and_unload(), trees), trained) < 1e-4


def test_an_adapter_that_is_saved_and_loaded_is_the_same_bytes(policy: Policy, base: Base) -> None:
    files = policy.files()

    assert base.load_adapter(files).files() == files
    assert digest_of(files) == hashlib.sha256(files[WEIGHTS]).hexdigest()
    assert set(files) == {CONFIG, WEIGHTS}


def test_two_steps_a_save_and_two_steps_are_four_steps_bit_for_bit(make: Any) -> None:
    def step(policy: Policy, number: int) -> None:
        policy.update(make.random_trees(seed=number), LOSS, learning_rate=1e-2, cut=CUT)

    straight = Base(make.random_qwen3(), "random").fresh(rank=4, alpha=8, seed=1)
    for number in range(4):
        step(straight, number)
    half = Base(make.random_qwen3(), "random").fresh(rank=4, alpha=8, seed=1)
    for number in range(2):
        step(half, number)
    saved = half.files() | {STATE: half.state()}
    resumed = Base(make.random_qwen3(), "random").load_adapter(saved)
    resumed.restore(saved)
    forgetful = Base(make.random_qwen3(), "random").load_adapter(saved)
    for number in range(2, 4):
        step(resumed, number)
        step(forgetful, number)

    assert resumed.files() == straight.files()
    assert resumed.state() == straight.state()
    assert forgetful.files() != straight.files()


def test_an_adapter_of_another_model_is_refused_with_the_reason(base: Base, make: Any) -> None:
    other = Base(make.random_qwen3(hidden_size=16), "other").fresh(rank=4, alpha=8, seed=1)
    deeper = Base(make.random_qwen3(num_hidden_layers=3), "other").fresh(rank=4, alpha=8, seed=1)

    for wrong in (other, deeper):
        with pytest.raises(CannotTrain, match="does not fit random"):
            base.load_adapter(wrong.files())


def test_a_gradient_that_is_no_number_ends_the_run_and_leaves_the_policy(policy: Policy) -> None:
    before = policy.files()
    broken = Tree([1, 2], (Answer([3], [1], [-1.0], float("nan")),))

    with pytest.raises(CannotTrain, match="learning_rate"):
        policy.update([broken], LOSS, learning_rate=1e-3, cut=CUT)
    assert policy.files() == before


def test_a_run_that_is_over_stops_between_two_passes(policy: Policy, make: Any) -> None:
    answers = iter([True, False])

    with pytest.raises(RunOver):
        policy.update(make.random_trees(8, 8), LOSS, learning_rate=1e-3, cut=CUT, wanted=lambda: next(answers))


def test_a_step_that_memory_does_not_hold_is_cut_smaller_and_says_so(
    base: Base, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, plain = base.fresh(rank=4, alpha=8, seed=1), base.fresh(rank=4, alpha=8, seed=1)
    learn = Policy._learn

    def small(self: Policy, batch: Any, loss: Any) -> Any:
        if batch.ids_BW.numel() > 64:
            raise torch.cuda.OutOfMemoryError
        return learn(self, batch, loss)

    plain.update(make.random_trees(), LOSS, learning_rate=1e-2, cut=Cut(64))
    monkeypatch.setattr(Policy, "_learn", small)
    update = policy.update(make.random_trees(), LOSS, learning_rate=1e-2, cut=Cut(256))

    assert update.cut == Cut(64)
    assert policy.files() == plain.files()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")]
)
def test_memory_that_a_cpu_has_not_got_makes_the_cut_smaller_too(
    policy: Policy, make: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    learn = Policy._learn

    def small(self: Policy, batch: Any, loss: Any) -> Any:
        if batch.ids_BW.numel() > 64:
            raise error
        return learn(self, batch, loss)

    monkeypatch.setattr(Policy, "_learn", small)

    assert policy.update(make.random_trees(), LOSS, learning_rate=1e-2, cut=Cut(256)).cut == Cut(64)


def test_another_error_than_want_of_memory_is_raised(
    policy: Policy, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Policy, "_learn", broken)

    with pytest.raises(RuntimeError, match="shapes"):
        policy.update(make.random_trees(), LOSS, learning_rate=1e-2, cut=Cut(256))


def test_what_no_cut_makes_small_enough_ends_the_run(
    policy: Policy, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*given: Any) -> Any:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(Policy, "_learn", never)

    with pytest.raises(CannotTrain, match="memory"):
        policy.update(make.random_trees(), LOSS, learning_rate=1e-2, cut=CUT)


def test_released_policies_give_their_memory_back(base: Base, make: Any) -> None:
    for seed in range(3):
        policy = base.fresh(rank=4, alpha=8, seed=seed)
        policy.update(make.random_trees(), LOSS, learning_rate=1e-3, cut=CUT)
        policy.release()

    assert not [name for name, _ in base.model.named_parameters() if "lora" in name]
    assert base.fresh(rank=2, alpha=4, seed=9).update(make.random_trees(), LOSS, learning_rate=1e-3, cut=CUT)


def test_two_threads_asked_for_are_two_threads_used(policy: Policy, make: Any) -> None:
    update = policy.update(make.random_trees(1, 2), LOSS, learning_rate=1e-3, cut=Cut(64, threads=2))
    used = torch.get_num_threads()
    torch.set_num_threads(1)

    assert (update.cut.threads, used) == (2, 2)


def test_no_part_of_the_learner_but_its_start_knows_a_tokenizer() -> None:
    folder = Path(__file__).parents[2] / "services" / "learner"
    knowing = [path.name for path in folder.glob("*.py") if "tokenizer" in path.read_text()]

    assert knowing == ["__main__.py"]


@pytest.mark.parametrize("shares_gpu", [True, False])
def test_a_gpu_that_is_shared_is_left_tidy(make: Any, monkeypatch: pytest.MonkeyPatch, shares_gpu: bool) -> None:
    tidied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: tidied.append(1))
    base = Base(make.random_qwen3(), "random", shares_gpu=shares_gpu)

    with base.computing():
        assert not tidied
        assert base.turn.locked()

    assert bool(tidied) == shares_gpu
    assert not base.turn.locked()
