"""Mutation testing: `make mutants SAMPLE=200 SEED=1` changes the code at random places, one at a time, and lists the
changes that no test noticed.

Cosmic Ray finds the places, applies the changes and stores the results. This file chooses a random sample and, by
coverage.py's contexts, the tests that run a changed line: those of its package first, the fastest first. Everything
happens in copies under build/mutants, each change in a process of its own. The same command resumes a stopped run;
`rm -r build/mutants` starts anew, after the code or the tests changed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import coverage
import pytest
from cosmic_ray.commands.init import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult

WORK = Path("build/mutants")
CODE = ("sampling", "decode", "exact", "adapters", "scene", "patch.py", "install.py")
LEFT_OUT = ("scene/pictures.py", "exact/extraction.py")  # pictures; what runs on the stock classes only, in tests/stock
TESTS = (
    *("sampling", "decode", "exact", "adapters", "scene", "config", "run", "test_api.py", "test_contract.py"),
    *("test_patch.py", "test_precision.py", "test_devices.py", "test_adding_a_method.py", "model/test_extract.py"),
    *("model/test_flow.py", "model/test_pipeline.py", "native/test_live.py", "native/test_replay.py"),
    *("native/test_shared_passes.py", "tune/test_calibrate.py", "tune/test_problem.py", "tune/test_mean_cache.py"),
    "bench/test_runtimes.py",
)
# Replacements that are equivalent by construction: `is None` against `== None`, `==` against `is` of small constants.
EQUIVALENT = re.compile("ReplaceComparisonOperator_(Is_Eq|IsNot_NotEq|Eq_Is|NotEq_IsNot)$")
SECONDS, FIRST = 15.0, 8  # of the tests chosen for one change; how many of them run first
DEFAULTS = "tests/config/test_settings.py"
MEMORY = 12 << 30  # of one process
PRELOADED = (
    "torch",
    "scipy.spatial",
    "scipy.ndimage",
    "skimage.measure",
    "trimesh",
    "hydra",
    "PIL.Image",
)


class Mapper:
    """A pytest plugin: which lines each test runs, and how long it takes."""

    def __init__(self) -> None:
        self.coverage = coverage.Coverage(data_file=None, source=["fast_sam3d"], config_file=False)
        self.seconds: dict[str, float] = {}
        self.passed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        start = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - start
        self.coverage.switch_context("")
        return result

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.outcome == "passed":
            self.passed.add(report.nodeid)

    def run(self, tests: list[str]) -> dict:
        self.coverage.start()
        pytest.main(["-q", "-p", "no:cacheprovider", *tests], plugins=[self])
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {}
        for file in data.measured_files():
            found = data.contexts_by_lineno(file)
            lines[os.path.relpath(file)] = {n: sorted(self.passed.intersection(tests)) for n, tests in found.items()}
        return {"seconds": {test: self.seconds[test] for test in self.passed}, "lines": lines}


class Chosen:
    """A pytest plugin: these tests alone, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.order = {test: number for number, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])


def choose(mutation: MutationSpec, known: dict) -> list[str]:
    """The tests for a change: those that run its lines or, where these run on import only, any line of the file and
    those of the defaults; first those of its package, one of each parametrised test before a second one, the fastest;
    `SECONDS` in all."""
    lines = known["lines"].get(str(mutation.module_path), {})
    tests = set(lines.get(str(mutation.start_pos[0]), []))
    if not tests:
        tests = {test for found in lines.values() for test in found}
        tests |= {test for test in known["seconds"] if test.startswith(DEFAULTS)}
    near = str(mutation.module_path.parent).replace("fast_sam3d", "tests", 1) + "/"
    seen: Counter[str] = Counter()
    order = []
    for test in sorted(tests, key=lambda t: known["seconds"][t]):
        order.append((not test.startswith(near), seen[test.split("[")[0]], test))
        seen[test.split("[")[0]] += 1
    chosen, left = [], SECONDS
    for *_, test in sorted(order, key=lambda o: o[:2]):
        if (left := left - known["seconds"][test]) >= 0 or not chosen:
            chosen.append(test)
    return chosen


def annotations(path: Path) -> set[tuple[int, int]]:
    """Places of annotations, which are never evaluated."""
    places = set()
    for node in ast.walk(ast.parse(path.read_text())):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.AST):
                inside = [p for p in ast.walk(part) if hasattr(p, "lineno")]
                places |= {(p.lineno, column) for p in inside for column in range(p.col_offset, p.end_col_offset)}
    return places


def slots(path: Path) -> set[tuple[int, int]]:
    """Places of the values of `slots=True`, without which a frozen dataclass takes more memory, and no more."""
    lines = path.read_text().splitlines()
    return {(n, match.end()) for n, line in enumerate(lines, 1) for match in re.finditer("slots=", line)}


def sample(database: WorkDB, count: int, seed: int) -> None:
    """Fill an empty database with one random change at each of `count` random places."""
    paths = [Path("fast_sam3d") / part for part in CODE]
    files = {file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))}
    modules = sorted(files - {Path("fast_sam3d") / part for part in LEFT_OUT})
    init(modules, database, {})
    without_effect = {path: annotations(path) | slots(path) for path in modules}
    places = defaultdict(list)
    for item in database.work_items:
        [m] = item.mutations
        if tuple(m.start_pos) not in without_effect[m.module_path] and not EQUIVALENT.search(m.operator_name):
            places[(str(m.module_path), *m.start_pos)].append(item)
    rng = random.Random(seed)
    chosen = rng.sample(sorted(places), min(count, len(places)))
    database.clear()
    for place in chosen:
        items = sorted(places[place], key=lambda i: (i.mutations[0].operator_name, i.mutations[0].occurrence))
        database.add_work_item(rng.choice(items))


def attempt(item: WorkItem, tree: Path, known: dict) -> WorkResult:
    """Apply the change in `tree`, and run its tests in a forked process."""
    [mutation] = item.mutations
    tests = choose(mutation, known)
    if not tests:
        return WorkResult(WorkerOutcome.NO_TEST, "no test runs it", TestOutcome.SURVIVED)
    operator = get_operator(mutation.operator_name)()
    with use_mutation(tree / mutation.module_path, operator, mutation.occurrence) as codes:
        before, after = (code.splitlines() for code in codes)
        # Most changes are noticed by the first few, and all files of tests are read before the first test runs.
        for part in filter(None, (tests[:FIRST], tests[FIRST:])):
            code = exit_code(tree, part, timeout=120 + 3 * sum(known["seconds"][test] for test in part))
            noticed = code not in (0, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
            if noticed:
                break
    diff = [line for line in difflib.unified_diff(before, after, lineterm="", n=0) if line[:3] not in ("---", "+++")]
    verdict = TestOutcome.KILLED if noticed else TestOutcome.SURVIVED
    return WorkResult(WorkerOutcome.NORMAL, f"{len(tests)} tests, exit code {code}", verdict, "\n".join(diff))


def exit_code(tree: Path, tests: list[str], timeout: float) -> int | None:
    """Of pytest in a forked process; None: it was ended after `timeout` seconds."""
    child = multiprocessing.get_context("fork").Process(target=run_tests, args=(tree, tests))
    child.start()
    child.join(timeout)
    if child.exitcode is None:
        os.killpg(child.pid, signal.SIGKILL)
    return child.exitcode


def run_tests(tree: Path, tests: list[str]) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    log = os.open("last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    files = dict.fromkeys(test.split("::")[0] for test in tests)
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[Chosen(tests)]))


def work(database: Path, job: int, jobs: int, known: dict) -> None:
    tree = (WORK / f"job{job}").absolute()
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(WORK / "tree", tree, symlinks=True)
    with use_db(database, WorkDB.Mode.open) as items:
        for item in sorted(items.pending_work_items, key=lambda i: i.job_id)[job::jobs]:
            result = attempt(item, tree, known)
            items.set_result(item.job_id, result)
            print(f"{result.test_outcome.value}: {shown(item, result)}", flush=True)


def shown(item: WorkItem, result: WorkResult) -> str:
    [mutation] = item.mutations
    place = f"{mutation.module_path}:{mutation.start_pos[0]} in {mutation.definition_name}"
    return f"{place} ({mutation.operator_name}, {result.output})\n{result.diff}"


def report(database: Path) -> None:
    with use_db(database, WorkDB.Mode.open) as items:
        done = items.completed_work_items
    survivors = sorted(shown(item, result) for item, result in done if not result.is_killed)
    print("\nNot noticed:", *survivors, sep="\n")
    killed = len(done) - len(survivors)
    print(f"{killed} of {len(done)} changes noticed, {100 * killed / max(len(done), 1):.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="how many changes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--map", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.map:
        sys.path.insert(0, os.getcwd())
        Path("../map.json").write_text(json.dumps(Mapper().run(options.map)))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not (WORK / "map.json").is_file():
        shutil.rmtree(WORK, ignore_errors=True)
        for name in subprocess.check_output(["git", "ls-files"], text=True).splitlines():
            (WORK / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, WORK / "tree" / name)
        command = [sys.executable, str(Path(__file__).absolute()), "--map", *(f"tests/{name}" for name in TESTS)]
        subprocess.run(command, cwd=WORK / "tree", env={**os.environ, "PYTHONPATH": "."}, check=True)
    known = json.loads((WORK / "map.json").read_text())
    database = WORK / f"sample-{options.sample}-seed-{options.seed}.sqlite"
    if not database.exists():
        with use_db(part := database.with_suffix(".part")) as items:
            sample(items, options.sample, options.seed)
        part.rename(database)
    for name in PRELOADED:
        importlib.import_module(name)
    jobs = [
        multiprocessing.get_context("fork").Process(target=work, args=(database, job, options.jobs, known))
        for job in range(options.jobs)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    report(database)


if __name__ == "__main__":
    main()
