"""Compiles vqaudio/kernels/kernels.cpp, once for each instruction set; everything else is in pyproject.toml.

Without a compiler, or with one that lacks an instruction set, the installation goes on without it. It takes g++ or
clang++: other compilers lack the vector types.
"""

import platform
import sys

from setuptools import Extension, setup

FLAGS = {"generic": []}  # what any machine of this kind runs
if platform.machine().lower() in ("x86_64", "amd64"):
    FLAGS["avx2"] = ["-mavx2", "-mfma"]
    FLAGS["avx512"] = [*FLAGS["avx2"], "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
    FLAGS["avx512bf16"] = [*FLAGS["avx512"], "-mavx512bf16", "-mavx512vnni"]

COMMON = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-pthread"]
if sys.platform == "darwin":
    COMMON.append("-faligned-allocation")  # Pythons that are built for an old macOS would forbid it

if __name__ == "__main__":  # others read the flags: tests/kernels/test_kernels_cpp.py
    setup(
        ext_modules=[
            Extension(
                f"vqaudio.kernels._kernels_{variant}",
                sources=["vqaudio/kernels/kernels.cpp"],
                extra_compile_args=[*COMMON, *flags],
                extra_link_args=["-pthread"],
                depends=["setup.py"],
                optional=True,
            )
            for variant, flags in FLAGS.items()
        ]
    )
