"""Sort digits, up or down: the task `number_sorting` of the package reasoning-gym. In the verifiers dialect.

reward = 1.0 × sorted

The package draws the tasks and judges the answers. Three of its traps are gone round here:
- Task i of seed s is drawn from s + i, so seeds that lie close have tasks in common: the held-out ones begin where the
  training ones end, and what both drew by chance is left out.
- Its judges pay a share for answers that are nearly right or merely hold the right one; only full marks count.
- This judge lets each number be off by one: it is asked only about answers of the numbers that were given.
"""

import json

import reasoning_gym
import verifiers as vf

SIZE = 512
DIGITS = {"min_value": 0, "max_value": 9, "min_decimals": 0, "max_decimals": 0}


def load_environment(seed=0, shortest=4, longest=6):
    """`shortest`, `longest`: how many digits are to be sorted."""

    def tasks(first, size):
        return reasoning_gym.create_dataset(
            "number_sorting", seed=first, size=size, min_numbers=shortest, max_numbers=longest, **DIGITS
        )

    def held_out():
        known = {row["question"] for row in map(row_of, tasks(seed, SIZE))}
        return [row for row in map(row_of, tasks(seed + SIZE, 128)) if row["question"] not in known][:64]

    judge = tasks(seed, 1)

    def in_order(completion, answer, info):
        said = completion[-1]["content"].split()
        if sorted(said) != sorted(answer.split()):
            return 0.0
        task = {"answer": info["answer"], "metadata": info["metadata"]}  # it gives 0 where it misses one of them
        return float(judge.score_answer(json.dumps(said), task) == 1.0)

    return vf.SingleTurnEnv(
        dataset=lambda: [row_of(task) for task in tasks(seed, SIZE)],
        eval_dataset=held_out,
        rubric=vf.Rubric(funcs=[in_order]),
    )


def row_of(task):
    """A task in few characters: the package's own question takes 500, and an answer wants to be a list of strings."""
    about = task["metadata"]
    way = {"ascending": "Sort", "descending": "Sort down"}[about["direction"]]
    return {
        "question": f"{way}: {digits(about['original_numbers'])}",
        "answer": digits(about["sorted_numbers"]),
        "info": task,
    }


def digits(numbers):
    return " ".join(str(int(float(number))) for number in numbers)
