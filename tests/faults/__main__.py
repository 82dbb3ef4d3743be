"""`python -m tests.faults`: tries every case and prints how many ended how."""

import argparse
import fnmatch
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.judging import Case, Wrong
from tests.faults.suite import all_cases, known, make_sound, try_case
from tests.faults.table import FAILED, table


def main() -> int:
    """Returns 1 if a case failed that is not known to, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", default="*", metavar="CLASS/NAME", help="may have wildcards")
    parser.add_argument("--keep", type=Path, help="folder for the input and for what fails")
    options = parser.parse_args()
    cases = [case for case in all_cases() if fnmatch.fnmatchcase(case.id, options.only)]
    if not cases:
        parser.error(f"no case is called {options.only}")
    with tempfile.TemporaryDirectory() as aside:
        folder = (options.keep or Path(aside)).resolve()
        checkpoint, recipe, bundle = _export(folder)
        start = time.perf_counter()
        sound = make_sound(folder / "sound", checkpoint, recipe, bundle)

        def outcome(number: int, case: Case) -> tuple[str, str]:
            begin = time.perf_counter()
            try:
                verdict = try_case(case, sound, folder / "cases" / str(number))
            except Wrong as wrong:
                why = known(case)
                if why is None:
                    unexpected.append(case)
                print(f"{case.id} ({number}): {'known: ' + why if why else wrong}", flush=True)
                return case.kind, FAILED
            finally:
                took[case.id] = time.perf_counter() - begin
            return case.kind, verdict.name

        took: dict[str, float] = {}
        unexpected: list[Case] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(outcome, range(len(cases)), cases))
    print(*table(outcomes), f"{time.perf_counter() - start:.0f} s", sep="\n")
    slowest = sorted(took, key=took.__getitem__)[-1:-6:-1]
    print("slowest:", ", ".join(f"{name} {took[name]:.1f} s" for name in slowest))
    return int(bool(unexpected))


def _export(folder: Path) -> tuple[Path, Path, Path]:
    from tests.mini import export_mini, write_mini_checkpoint, write_mini_recipe

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, recipe, bundle = (folder / name for name in ("m.safetensors", "m.toml", "bundle"))
    if not bundle.exists():
        write_mini_checkpoint(checkpoint)
        export_mini(checkpoint, write_mini_recipe(recipe), bundle)
    return checkpoint, recipe, bundle


if __name__ == "__main__":
    sys.exit(main())
