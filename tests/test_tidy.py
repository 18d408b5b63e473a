"""Rules of this project that no linter checks, each with its reason."""

import ast
import itertools
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from admitone import registry
from admitone.kernel.messaging.event import event_types

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "admitone"

SERVICES = tuple(each.name for each in registry.SERVICES)

DOCUMENTS = {"README", "CHANGELOG"}

# Each exception with its reason.
MAY_KNOW_STATUS_CODES = {
    "kernel/http/app.py": "gives every outcome its status code",
    "kernel/http/operations.py": "names the codes of success",
}
MAY_READ_CLOCK_OR_RANDOM = {
    "kernel/clock.py": "is the clock",
    "kernel/ids.py": "generates ids and tokens",
    "local/": "starts servers, which no simulation replays",
    "demo.py": "generates users and tickets from a fixed seed",
}
MAY_RUN_WHAT_IT_IS_GIVEN = {
    "kernel/database/pool.py": "passes statements on",
    "kernel/database/migrations.py": "runs the files of the package",
    "kernel/messaging/retention.py": "passes its own constants on",
    "invariants/": "passes its own constants on",
    "local/provision.py": "names databases and roles, quoted by PostgreSQL itself",
}
MAY_CATCH_EVERYTHING = {
    "kernel/http/app.py": "HTTP edge: responds with 500 and logs",
    "web/pages.py": "HTTP edge of the pages: responds with an error page and logs",
    "kernel/messaging/inbox.py": "inbox: retries, then dead-letters",
    "kernel/runner.py": "job runner: restarts jobs",
    "payments/jobs.py": "settles payments concurrently: one failure must not stop the others",
    "commands/dead_letters.py": "shows the operator what a handler raised",
    "kernel/database/batching.py": "raises the error to the callers",
    "kernel/single_flight.py": "raises the error to the callers",
    "kernel/http/sessions.py": "keys that cannot be fetched or read are no keys, for whatever cause",
}

# Numbers that are unlikely to mean anything but status codes.
STATUS_CODES = {303, 304, 307, 308, 401, 402, 403, 404, 405, 409, 410, 412, 413, 415, 422, 429, 502, 503, 504}
CLOCKS_AND_RANDOM = {
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.time_ns", "time.localtime"),
    *("os.urandom", "uuid.uuid1", "uuid.uuid4", "uuid4", "uuid1", "uuid7", "getrandom"),
}
RANDOM_MODULES = {"random", "secrets"}
EVERYTHING = {"Exception", "BaseException"}

# Classes of the same name in several modules, with the reason.
MAY_SHARE_A_NAME = {
    "Resources": "what each service opens at start, by the shape of a service",
    "NoSuchOrder": "the same refusal of two services",
    "NoSuchTicket": "the same refusal of two services",
    "NotYourOrder": "the same refusal of two services",
    "PaymentInProgress": "the same refusal of two services",
}

# Words of an older dialect, and metaphors that the glossary replaces.
DIALECT = (
    *("told", "tells", "teller", "heard", "hears", "hearer", "anew", "whoever", "nudge", "gatherer", "shelf"),
    *("take in", "takes in", "took in", "taken in", "work off", "works off", "worked off", "once here"),
    *("came to stand",),
)

EMPTY_WORDS = {
    *("manager", "managers", "helper", "helpers", "util", "utils", "common", "base", "core", "misc", "data", "info"),
    *("process", "processor", "handle", "do", "impl"),
}

WAYS_TO_SKIP = {
    *("pytest.skip", "pytest.xfail", "pytest.importorskip"),
    *("pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"),
}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def sources_of_the_sandbox() -> list[Path]:
    return sorted((ROOT / "src" / "stripe_sandbox").rglob("*.py"))


def files_of_tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


def everything(*patterns: str) -> Iterator[Path]:
    """Files of the project, without what tools leave behind."""
    for pattern in patterns:
        for file in ROOT.rglob(pattern):
            parts = file.relative_to(ROOT).parts
            if not any(
                (part.startswith(".") and part != ".ci") or part in {"node_modules", "build", "dist"} for part in parts
            ):
                yield file


def place(file: Path, node: ast.AST | None = None) -> str:
    line = getattr(node, "lineno", None)
    return f"{file.relative_to(ROOT)}:{line}" if line else str(file.relative_to(ROOT))


def is_excused(file: Path, excused: dict[str, str]) -> bool:
    name = file.relative_to(PACKAGE).as_posix()
    return any(name == entry or (entry.endswith("/") and name.startswith(entry)) for entry in excused)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` as it is written, or nothing for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def imported(node: ast.AST) -> set[str]:
    """Return the modules that a statement imports, and the names it imports from them."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {node.module or "", *(alias.name for alias in node.names)}
    return set()


def test_documents_are_the_agreed_ones() -> None:
    found = {file.relative_to(ROOT) for file in everything("*.md", "*.rst", "*.markdown")}
    stray = {
        str(file)
        for file in found
        if file.parts[0] not in {"docs", ".github"} and not (len(file.parts) == 1 and file.stem in DOCUMENTS)
    }
    assert not stray


def test_decisions_are_numbered_once_and_stay_short() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*"))
    assert all(re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", file.name) for file in decisions)
    numbers = [int(file.name[:4]) for file in decisions]
    assert numbers == list(range(1, len(numbers) + 1))
    assert not [file.name for file in decisions if len(file.read_text().splitlines()) > 40]


def test_the_style_page_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "docs" / "style.md").read_text().splitlines()) <= 120


def test_every_module_opens_by_saying_what_it_is_for() -> None:
    silent = [
        place(file)
        for file in sources() + sources_of_the_sandbox() + files_of_tests()
        if file.read_text().strip() and not ast.get_docstring(tree(file))
    ]
    assert not silent


def test_only_the_http_edge_knows_status_codes() -> None:
    def is_code(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Constant) and type(node.value) is int and 100 <= node.value < 600

    found: set[str] = set()
    for file in sources():
        if is_excused(file, MAY_KNOW_STATUS_CODES):
            continue
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.keyword) and node.arg in {"status", "status_code"} and is_code(node.value):
                found.add(place(file, node.value))
            elif isinstance(node, ast.Constant) and type(node.value) is int and node.value in STATUS_CODES:
                found.add(place(file, node))
            elif isinstance(node, ast.Compare) and dotted(node.left).endswith(("status", "status_code")):
                found |= {place(file, each) for each in node.comparators if is_code(each)}
    assert not found


def test_only_the_kernel_reads_the_clock_and_generates_random_values() -> None:
    """Everything else is passed the time and its ids, so that runs are repeatable."""
    found: set[str] = set()
    for file in sources():
        if is_excused(file, MAY_READ_CLOCK_OR_RANDOM):
            continue
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute | ast.Name):
                name = dotted(node)
                if name in CLOCKS_AND_RANDOM or any(name.endswith(f".{each}") for each in CLOCKS_AND_RANDOM):
                    found.add(place(file, node))
            elif RANDOM_MODULES & imported(node):
                found.add(place(file, node))
    assert not found


def test_only_edges_catch_everything() -> None:
    """Elsewhere an unexpected error is a bug that must be visible. Cleaning up and raising again is allowed."""
    found: set[str] = set()
    for file in sources():
        if is_excused(file, MAY_CATCH_EVERYTHING):
            continue
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ExceptHandler):
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                is_broad = node.type is None or any(dotted(kind) in EVERYTHING for kind in kinds if kind)
                raises_again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                if is_broad and not raises_again:
                    found.add(place(file, node))
            elif (
                isinstance(node, ast.Call)
                and dotted(node.func).endswith("suppress")
                and any(dotted(kind) in EVERYTHING for kind in node.args)
            ):
                found.add(place(file, node))
    assert not found


@pytest.mark.parametrize(
    "excused", [MAY_KNOW_STATUS_CODES, MAY_READ_CLOCK_OR_RANDOM, MAY_RUN_WHAT_IT_IS_GIVEN, MAY_CATCH_EVERYTHING]
)
def test_every_exception_names_an_existing_file(excused: dict[str, str]) -> None:
    assert not [entry for entry in excused if not (PACKAGE / entry).exists()]


def test_no_class_name_has_two_meanings() -> None:
    modules: dict[str, list[str]] = {}
    for file in sources() + sources_of_the_sandbox():
        for node in tree(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules.setdefault(node.name, []).append(place(file, node))
    shared = {name for name, places in modules.items() if len(places) > 1}
    assert sorted(shared) == sorted(MAY_SHARE_A_NAME)


def test_the_kernel_knows_no_service() -> None:
    """Import contracts forbid imports; this forbids names and paths in strings."""
    names = re.compile(rf"\b(?:{'|'.join(SERVICES)})\b|/api/(?!openapi)")
    found = {
        place(file, node)
        for file in (PACKAGE / "kernel").rglob("*.py")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and names.search(node.value)
        if not is_docstring(file, node)
    }
    assert not found


def is_docstring(file: Path, constant: ast.Constant) -> bool:
    return any(isinstance(node, ast.Expr) and node.value is constant for node in ast.walk(tree(file)))


def test_the_words_are_those_of_the_field() -> None:
    """See docs/glossary.md. Statements of released migrations cannot change."""
    words = "|".join(word.replace(" ", "[ _]") for word in DIALECT)
    dialect = re.compile(rf"(?<![a-z])(?:{words})(?![a-z])", re.IGNORECASE)
    found = []
    for folder, pattern in itertools.product(
        ("src", "tests", "docs", "deploy", "proof"), ("*.py", "*.md", "*.sh", "*.sql")
    ):
        for file in (ROOT / folder).rglob(pattern):
            if file.parent.name != "migrations" and file != Path(__file__):
                lines = file.read_text().splitlines()
                found += [f"{place(file)}:{number}" for number, line in enumerate(lines, 1) if dialect.search(line)]
    assert found == []


def test_tests_named_in_documents_exist() -> None:
    tests = {name for file in files_of_tests() for name in re.findall(r"def (test_\w+)", file.read_text())}
    tests |= {file.stem for file in files_of_tests()}
    missing = []
    for file in everything("*.md"):
        if "Replaced by" not in file.read_text():  # a replaced decision describes its own time
            named = re.findall(r"`(test_\w+)`", file.read_text())
            missing += [f"{place(file)}: {name}" for name in named if name not in tests]
            paths = re.findall(r"`(tests/[\w/]+\.py)`", file.read_text())
            missing += [f"{place(file)}: {path}" for path in paths if not (ROOT / path).exists()]
    assert missing == []


def test_the_root_has_only_what_people_look_for_there() -> None:
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert len({name.partition("/")[0] for name in kept}) <= 16


def test_names_say_something() -> None:
    def last_word(name: str) -> str:
        words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)
        return words[-1].lower() if words else ""

    files = sources() + sources_of_the_sandbox()
    found = {place(file) for file in files if last_word(file.stem) in EMPTY_WORDS}
    for file in files:
        # Libraries choose the names of methods that they call.
        for node in tree(file).body:
            if (
                isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and last_word(node.name) in EMPTY_WORDS
            ):
                found.add(place(file, node))
    assert not found


def test_nothing_is_left_for_later_without_an_owner() -> None:
    words = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b")
    assert not [
        place(file) for file in everything("*.py", "*.sql", "*.js", "*.css", "*.html") if words.search(file.read_text())
    ]


def test_the_lock_file_names_no_host_and_has_a_hash_for_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert not re.search(r"^--", lock, re.MULTILINE)
    requirements = re.findall(
        r"^[a-z0-9][^\n]*?==[^\n]*\\\n(?:    --hash=sha256:[0-9a-f]{64}[^\n]*\n)+", lock, re.MULTILINE
    )
    assert len(requirements) == len(re.findall(r"^[a-z0-9].*==", lock, re.MULTILINE)) > 50


def test_every_direct_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[\[<>=~ ]", each)[0] for each in wanted} - {"admitone"}
    # Fuzzing has a lock file of its own: its wheels are for Linux only.
    locks = "".join((ROOT / name).read_text() for name in ("requirements.lock", "proof/fuzz/requirements.lock"))
    locked = set(re.findall(r"^([a-z0-9-]+)==", locks, re.MULTILINE))
    assert names - locked == set()


def test_every_event_has_a_golden_file() -> None:
    """The exact JSON that was sent before: a change of an event must keep old messages readable."""
    golden = {file.name.split(".")[0] for file in (ROOT / "tests" / "events").rglob("*.json")}
    # Tests of the kernel register events of their own in the same process.
    ours = {name for name, each in event_types().items() if each.__module__ == "admitone.events"}
    assert ours - golden == set()


def test_tests_use_real_parts_and_always_run() -> None:
    found: set[str] = set()
    for file in files_of_tests():
        for node in ast.walk(tree(file)):
            is_mock = any("mock" in name.split(".") for name in imported(node))
            if is_mock or (isinstance(node, ast.Attribute) and dotted(node) in WAYS_TO_SKIP):
                found.add(place(file, node))
    assert not found


def test_tests_wait_for_conditions_instead_of_sleeping() -> None:
    """A sleep in a loop polls; one outside a loop guesses how fast a machine is.

    Sleeping for zero seconds yields to others, and sleeping for a random time creates a race; both are allowed.
    """

    def is_guess(call: ast.Call) -> bool:
        inner = {dotted(node) for argument in call.args for node in ast.walk(argument)}
        is_nothing = len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
        return not is_nothing and not any(name.startswith("random.") for name in inner)

    found: set[str] = set()
    for file in files_of_tests():
        inside_loops = {
            id(inner) for loop in ast.walk(tree(file)) if isinstance(loop, ast.While) for inner in ast.walk(loop)
        }
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and dotted(node.func).endswith("sleep") and id(node) not in inside_loops:
                found |= {place(file, node)} if is_guess(node) else set()
    assert not found


def test_no_statement_is_built_from_input() -> None:
    """Statements contain only constants; values are passed as parameters.

    Ruff's S608 guesses from formatted strings; this checks the argument of the call.
    """
    ways_to_run = {"fetch", "fetchrow", "fetchval", "execute", "executemany"}

    def is_fixed(node: ast.AST) -> bool:
        match node:
            case ast.JoinedStr():
                return all(is_fixed(each) for each in node.values)
            case ast.FormattedValue() | ast.Subscript():
                return is_fixed(node.value)
            case ast.Constant():
                return True
            case _:
                return dotted(node).rpartition(".")[2].lstrip("_").isupper()

    found = {
        place(file, node)
        for file in sources()
        if not is_excused(file, MAY_RUN_WHAT_IT_IS_GIVEN)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ways_to_run
        if node.args and not is_fixed(node.args[0])
    }
    assert not found


def test_nothing_that_is_parsed_can_run_or_fetch_anything() -> None:
    """No format that can contain code or addresses, no shell, no template from input."""
    forbidden = {"pickle", "marshal", "shelve", "xml", "lxml", "yaml"}
    calls = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    found: set[str] = set()
    for file in sources() + sources_of_the_sandbox():
        for node in ast.walk(tree(file)):
            if {name.partition(".")[0] for name in imported(node)} & forbidden:
                found.add(place(file, node))
            elif isinstance(node, ast.Call):
                is_shell = any(each.arg == "shell" for each in node.keywords)
                if is_shell or dotted(node.func) in calls or dotted(node.func).endswith(".from_string"):
                    found.add(place(file, node))
    assert not found


def test_no_file_holds_a_key() -> None:
    """Search every file in the repository for strings with the shape of a key.

    This finds known shapes, not every secret: a search by entropy reports so much that people ignore it.
    """
    shapes = re.compile(
        r"sk_live_[0-9A-Za-z]{8}|rk_live_[0-9A-Za-z]{8}|whsec_[0-9A-Za-z+/]{24}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}"
        r"|gh[pousr]_[0-9A-Za-z]{30}|github_pat_[0-9A-Za-z_]{30}|xox[abprs]-[0-9A-Za-z-]{10}|AIza[0-9A-Za-z_-]{35}"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY-----\s*\n[A-Za-z0-9+/=]{16}|eyJ[0-9A-Za-z_-]{20,}\.eyJ[0-9A-Za-z_-]{20,}\."
        r"|(?:postgres|postgresql|nats)://[^\s:/@{$]+:(?!PASSWORD|password|[a-z]+-password|secret)[^\s@{$<]{6,}@"
    )
    kept = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    found = []
    for name in kept:
        file = ROOT / name.decode()
        if name and file.is_file() and (match := shapes.search(file.read_bytes().decode("utf-8", "replace"))):
            found.append(f"{name.decode()}: {match[0][:24]}")
    assert found == []


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_declaration_and_sql_only_in_its_store(service: str) -> None:
    folder = PACKAGE / service
    assert (folder / "service.py").exists()
    sql = re.compile(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b")
    elsewhere = [
        place(file, node)
        for file in folder.rglob("*.py")
        if file.name != "store.py"
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and sql.search(node.value)
    ]
    assert not elsewhere


def test_every_file_of_a_service_is_in_the_style_guide_or_has_a_reason_in_decision_20() -> None:
    table = re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "docs" / "style.md").read_text(), re.MULTILINE)
    decision = (ROOT / "docs" / "decisions" / "0020-files-beyond-the-table.md").read_text()
    reasons = re.findall(r"^\| `(\w+/(?:\w+\.py)?)` \|", decision, re.MULTILINE)
    files = {file.relative_to(PACKAGE).as_posix() for name in SERVICES for file in (PACKAGE / name).glob("*.py")}
    beyond = {file for file in files if file.partition("/")[2] not in {"__init__.py", *table}}
    assert sorted(file for file in beyond if not file.startswith(tuple(reasons))) == []
    assert [reason for reason in reasons if not any(file.startswith(reason) for file in beyond)] == []


def test_migrations_are_numbered_without_gaps() -> None:
    for folder in PACKAGE.glob("*/migrations"):
        numbers = sorted(int(file.name[:4]) for file in folder.glob("*.sql"))
        assert numbers == list(range(1, len(numbers) + 1)), folder


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    homes = re.compile(r"(?<![\w.~])/(?:root|home/\w+|Users/\w+)/")
    texts = everything(
        "*.py", "*.md", "*.toml", "*.sql", "*.js", "*.css", "*.html", "*.yaml", "*.lock", "Makefile", "run"
    )
    assert not [place(file) for file in texts if homes.search(file.read_text())]
