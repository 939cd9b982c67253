"""Recipe of calibration/prompts/stdlib.jsonl: functions of the Python standard library, to be completed.

A function qualifies by its docstring and by having a body worth writing. The source is parsed, never imported. Run
with the Python version that the ids of the shipped file name:

    python3.11 calibration/recipes/make_stdlib_prompts.py > calibration/prompts/stdlib.jsonl
"""

import ast
import hashlib
import json
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path

MODULES = """
_collections_abc _pydecimal _pyio _strptime abc argparse ast asyncio.base_events asyncio.events asyncio.locks
asyncio.queues asyncio.runners asyncio.streams asyncio.subprocess asyncio.tasks asyncio.timeouts asyncio.transports
base64 bdb bisect bz2 calendar cmd code codecs codeop collections.__init__ colorsys compileall concurrent.futures._base
concurrent.futures.process configparser contextlib copy csv ctypes.util dataclasses datetime difflib dis doctest
email.charset email.generator email.header email.headerregistry email.iterators email.message email.parser
email.quoprimime email.utils enum filecmp fileinput fnmatch fractions ftplib functools genericpath getopt getpass
gettext glob graphlib gzip hashlib heapq hmac html.__init__ html.parser http.client http.cookiejar http.cookies
http.server importlib.resources._common importlib.util inspect ipaddress json.__init__ json.decoder json.encoder
keyword linecache locale logging.__init__ logging.config logging.handlers lzma mailbox mimetypes modulefinder
multiprocessing.managers multiprocessing.pool nntplib ntpath numbers operator optparse os pathlib pdb pickle
pickletools pkgutil platform plistlib poplib posixpath pprint profile pstats py_compile pyclbr pydoc queue quopri
random re.__init__ reprlib rlcompleter runpy sched secrets selectors shelve shlex shutil smtplib socket socketserver
ssl statistics string subprocess symtable sysconfig tabnanny tarfile telnetlib tempfile textwrap threading timeit
tokenize trace traceback tracemalloc types typing unittest.case unittest.loader unittest.mock unittest.util
urllib.parse urllib.request urllib.robotparser uuid warnings wave weakref webbrowser wsgiref.handlers wsgiref.headers
wsgiref.util xml.dom.minidom xml.etree.ElementTree xml.sax.saxutils xmlrpc.client zipapp zipfile zoneinfo._zoneinfo
"""
DOCSTRING_CHARACTERS = range(60, 901)
STATEMENTS = 3
"""Fewest statements, nested ones included, in a body that is worth asking for."""
SIMILARITY = 0.5
"""Largest Jaccard similarity of two docstrings."""
COUNT = 432

Function = ast.FunctionDef | ast.AsyncFunctionDef
Entry = tuple[str, str, str]
"""Qualified name, docstring and request."""


def requests(module: str) -> Iterator[Entry]:
    """Yield qualified name, docstring and request of each qualifying function and method of a module."""
    path = Path(sysconfig.get_path("stdlib"), *module.split(".")).with_suffix(".py")
    name = module.removesuffix(".__init__")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, Function) and qualifies(node):
            yield f"{name}.{node.name}", docstring(node), request(f"this function of the module `{name}`", node)
        elif isinstance(node, ast.ClassDef):
            what = f"this method of the class `{name}.{node.name}`"
            for method in node.body:
                if isinstance(method, Function) and qualifies(method):
                    yield f"{name}.{node.name}.{method.name}", docstring(method), request(what, method)


def qualifies(function: Function) -> bool:
    """Whether the docstring says enough and the body asks for enough."""
    statements = sum(isinstance(node, ast.stmt) for node in ast.walk(function)) - len(("def", "docstring"))
    return len(docstring(function)) in DOCSTRING_CHARACTERS and statements >= STATEMENTS


def docstring(function: Function) -> str:
    """Return the cleaned docstring, empty if there is none."""
    return (ast.get_docstring(function) or "").strip()


def request(what: str, function: Function) -> str:
    """Word the request: the signature and the docstring as they stand in the library, without the body."""
    closing = "\n" if "\n" in docstring(function) else ""
    quoted = textwrap.indent(f'"""{docstring(function)}{closing}"""', "    ")
    function.body = [ast.Pass()]
    signature = ast.unparse(function).removesuffix("pass").rstrip()
    return f"Complete {what} in Python.\n\n```python\n{signature}\n{quoted}\n```"


def varied(entries: dict[str, list[Entry]]) -> Iterator[Entry]:
    """Take one entry of each module in turn; modules and entries go by the hash of their names."""
    groups = [sorted(entries[module], key=lambda entry: digest(entry[0])) for module in sorted(entries, key=digest)]
    return (entry for turn in zip_longest(*groups) for entry in turn if entry)


def digest(name: str) -> str:
    """Order that does not follow the alphabet and is the same everywhere."""
    return hashlib.sha256(name.encode()).hexdigest()


def distinct(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Drop an entry whose docstring resembles an earlier one in its runs of three words."""
    kept: list[set[tuple[str, str, str]]] = []
    for entry in entries:
        words = entry[1].lower().split()
        runs = set(zip(words, words[1:], words[2:], strict=False))
        if all(len(runs & other) <= SIMILARITY * len(runs | other) for other in kept):
            kept.append(runs)
            yield entry


def main() -> None:
    """Write the set to standard output, one JSON object a line."""
    version = "{}.{}.{}".format(*sys.version_info)
    entries = {module: list(requests(module)) for module in MODULES.split()}
    for name, _, prompt in islice(distinct(varied(entries)), COUNT):
        print(json.dumps({"id": f"stdlib-{version}/{name}", "domain": "code", "prompt": prompt}, ensure_ascii=False))


if __name__ == "__main__":
    main()
