"""How prompts and answers are laid out, and how a step is cut."""

from services.learner.batch import Answer, Tree
from services.learner.rows import micro_batches

TREE = Tree([1, 2], (Answer([3, 4, 5], [1, 0, 1], [-0.3, 0.0, -0.5], 1.0), Answer([6], [1], [-0.6], -1.0)))


def test_a_shared_prompt_stands_once_before_its_answers() -> None:
    (batch,) = micro_batches([TREE], max_tokens=100, share=True)

    # Answers without their last tokens, which predict nothing.
    assert batch.ids_BW.tolist() == [[1, 2, 3, 4]]
    assert batch.positions_BW.tolist() == [[0, 1, 2, 3]]
    # Token 3 and 6 are both predicted at the prompt's end; 4 is not the policy's own.
    assert batch.target_N.tolist() == [3, 5, 6]
    assert batch.column_N.tolist() == [1, 3, 1]
    assert batch.sequence_N.tolist() == [0, 0, 1]
    assert batch.advantage_N.tolist() == [1.0, 1.0, -1.0]


def test_an_answer_sees_its_prompt_and_itself_and_no_other() -> None:
    tree = Tree([1, 2], (Answer([3, 4], [1, 1]), Answer([5, 6], [1, 1])))

    (batch,) = micro_batches([tree], max_tokens=100, share=True)

    assert batch.sees_BWW is not None
    assert batch.positions_BW.tolist() == [[0, 1, 2, 2]]
    assert batch.sees_BWW[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]


def test_padded_rows_repeat_the_prompt_and_longer_rows_come_first() -> None:
    (batch,) = micro_batches([TREE], max_tokens=100, share=False)

    assert batch.sees_BWW is None
    assert batch.ids_BW.tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]
    assert batch.real_BW.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert sorted(zip(batch.sequence_N.tolist(), batch.target_N.tolist(), strict=True)) == [(0, 3), (0, 5), (1, 6)]


def test_short_conversations_are_packed_beside_each_other_instead_of_padding() -> None:
    trees = [Tree((), (Answer(list(range(n)), [0] + [1] * (n - 1)),)) for n in (9, 4, 5)]

    (batch,) = micro_batches(trees, max_tokens=100, share=True)

    assert batch.ids_BW.shape == (2, 8)  # 8; 4 + 3
    assert batch.positions_BW[1].tolist() == [0, 1, 2, 3, 0, 1, 2, 0]


def test_no_pass_takes_more_than_the_limit_unless_one_answer_alone_does(make: object) -> None:
    trees = make.random_trees(5, 6)  # type: ignore[attr-defined]
    longest = max(len(tree.prompt_ids) + len(answer.ids_T) - 1 for tree in trees for answer in tree.answers)

    for share in (True, False):
        for limit in (8, 20, 40, 200):
            batches = micro_batches(trees, max_tokens=limit, share=share)
            tokens = sorted(
                (n, t) for b in batches for n, t in zip(b.sequence_N.tolist(), b.target_N.tolist(), strict=True)
            )

            assert all(batch.ids_BW.numel() <= max(limit, longest) for batch in batches)
            assert len(tokens) == sum(len(answer.ids_T) for tree in trees for answer in tree.answers)
            assert {n for n, _ in tokens} == set(range(30))


def test_nothing_to_learn_is_no_pass_at_all() -> None:
    assert micro_batches([], max_tokens=100, share=True) == []
