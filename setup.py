"""Builds the compiled core; everything else about the package is in pyproject.toml.

FASTCLAIM_NO_EXTENSIONS=1       build none: a pure Python wheel
FASTCLAIM_REQUIRE_EXTENSIONS=1  without a working compiler fail, instead of going without the core
FASTCLAIM_SANITIZE=1            with AddressSanitizer and UBSan; for a Python started with
                                LD_PRELOAD="$(gcc -print-file-name=libasan.so)"
"""

import glob
import os

from Cython.Build import cythonize
from setuptools import Extension, setup


def wanted(variable: str) -> bool:
    return os.environ.get(variable) == "1"


def extensions() -> list[Extension]:
    if wanted("FASTCLAIM_NO_EXTENSIONS"):
        if wanted("FASTCLAIM_REQUIRE_EXTENSIONS"):
            raise SystemExit("FASTCLAIM_NO_EXTENSIONS contradicts FASTCLAIM_REQUIRE_EXTENSIONS")
        return []
    flags: list[str] = []
    if wanted("FASTCLAIM_SANITIZE"):
        # No recovery: a finding must end the test run, not only print a line in it.
        flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    built: list[Extension] = cythonize(
        Extension(
            "fastclaim._transition_c",
            ["src/fastclaim/_transition_c.pyx"],
            include_dirs=["src/fastclaim/_core"],  # the generated C stands not beside the header
            depends=glob.glob("src/fastclaim/_core/*.h"),
            extra_compile_args=flags,
            extra_link_args=flags,
        ),
        build_dir="build",  # the source tree stays free of generated C
        compiler_directives={
            "language_level": 3,
            # The core indexes C arrays only, at places that it has checked itself.
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            # Each call works on what is its own; what threads share is guarded in Python, by locks.
            "freethreading_compatible": True,
        },
    )
    required = wanted("FASTCLAIM_REQUIRE_EXTENSIONS") or wanted("FASTCLAIM_SANITIZE")
    for extension in built:
        # Here and not above: cythonize() makes new extensions, and forgets `optional`.
        extension.optional = not required
    return built


setup(
    ext_modules=extensions(),
    # The flags come from the environment, of which build_ext's comparison of times knows nothing.
    options={"build_ext": {"force": True}},
)
