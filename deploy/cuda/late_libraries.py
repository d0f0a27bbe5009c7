#!/usr/bin/env python3
"""Makes lib*.a archives for CUDA's libraries, whose functions look the real ones up at the first call.

    late_libraries.py CUDARC LIB      # sources of the crate cudarc, the folder for the archives

A program that is linked with them names no CUDA library, so it starts anywhere. Where a library is missing, each of its functions
returns an error status. (cudarc can do the same by its feature `dynamic-loading`, but candle asks for `dynamic-linking`, and
it does not take both.) For x86-64 and the System V calling convention: arguments are passed on as they came.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Library: module of cudarc that declares its functions, names to look for, and the status of a missing library, which must be
# an error in the enumeration of that library (of the driver: no device).
LIBRARIES = {
    "cuda": ("driver", ["libcuda.so.1", "libcuda.so"], 100),
    "nvrtc": ("nvrtc", ["libnvrtc.so.13", "libnvrtc.so"], 7),
    "curand": ("curand", ["libcurand.so.10", "libcurand.so"], 203),
    "cublas": ("cublas", ["libcublas.so.13", "libcublas.so"], 1),
    "cublasLt": ("cublaslt", ["libcublasLt.so.13", "libcublasLt.so"], 1),
}

# Two threads may look the same function up at once: both find the same.
LOOKUP = """
#include <dlfcn.h>
#include <string.h>

static const char *const files[] = {%(files)s, 0};
static const char *const names[] = {%(names)s};
static void *library;
__attribute__((visibility("hidden"))) void *late_%(name)s[%(count)d];

static long missing(void) { return %(status)d; }

/* cuGetErrorName and cuGetErrorString give their text through a pointer that is read even if they fail. */
static long missing_text(int status, const char **text) {
    (void)status;
    *text = "CUDA is not installed on this machine: %(file)s or one of its functions was not found";
    return 0;
}

__attribute__((visibility("hidden"))) void *late_find_%(name)s(long index) {
    for (int i = 0; files[i] && !library; i++)
        library = dlopen(files[i], RTLD_NOW | RTLD_GLOBAL);
    void *found = library ? dlsym(library, names[index]) : 0;
    if (!found)
        found = strncmp(names[index], "cuGetError", 10) ? (void *)missing : (void *)missing_text;
    __atomic_store_n(&late_%(name)s[index], found, __ATOMIC_RELEASE);
    return found;
}
"""

# Jumps to where the table says; an empty entry is looked up first, with all registers that hold arguments kept.
FUNCTION = """
.globl {function}
.type {function}, @function
{function}:
    movq late_{name}+{offset}(%rip), %rax
    testq %rax, %rax
    jz 1f
    jmp *%rax
1:  movl ${index}, %eax
    jmp late_enter_{name}
.size {function}, .-{function}
"""

INTEGERS = ["%rdi", "%rsi", "%rdx", "%rcx", "%r8", "%r9"]
FLOATS = range(8)


def enter(name):
    """The way to the lookup. %rbp and six registers are pushed behind the return address, so the stack is aligned as it must be."""
    lines = [f"late_enter_{name}:", "pushq %rbp", "movq %rsp, %rbp"]
    lines += [f"pushq {register}" for register in INTEGERS]
    lines += ["subq $128, %rsp", *(f"movups %xmm{i}, {16 * i}(%rsp)" for i in FLOATS)]
    lines += ["movslq %eax, %rdi", f"call late_find_{name}"]
    lines += [*(f"movups {16 * i}(%rsp), %xmm{i}" for i in FLOATS), "addq $128, %rsp"]
    lines += [f"popq {register}" for register in reversed(INTEGERS)]
    lines += ["popq %rbp", "jmp *%rax", '.section .note.GNU-stack, "", @progbits', ""]
    return "\n".join(lines)


def functions(cudarc, module):
    """Every function that cudarc declares for a library."""
    text = (cudarc / "src" / module / "sys" / "mod.rs").read_text()
    names = set(re.findall(r"^\s+fn ((?:cu|nvrtc)\w+)\(", text, re.MULTILINE))
    if not names:
        sys.exit(f"late_libraries: {cudarc}/src/{module} declares no function where it used to")
    return sorted(names)


def make(cudarc, folder, name):
    module, files, status = LIBRARIES[name]
    names = functions(cudarc, module)
    quoted = lambda texts: ", ".join(f'"{text}"' for text in texts)
    lookup = LOOKUP % {
        "name": name,
        "files": quoted(files),
        "file": files[0],
        "names": quoted(names),
        "count": len(names),
        "status": status,
    }
    assembly = ".text\n" + "".join(
        FUNCTION.format(function=function, name=name, offset=8 * index, index=index)
        for index, function in enumerate(names)
    )
    archive = folder / f"lib{name}.a"
    archive.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "lookup.c").write_text(lookup)
        (scratch / "functions.s").write_text(assembly + enter(name))
        objects = []
        for source in ("lookup.c", "functions.s"):
            objects.append(scratch / f"{source}.o")
            subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-fPIC", "-c", scratch / source, "-o", objects[-1]], check=True)
        # One object, so that the linker takes both or neither.
        subprocess.run(["ld", "-r", *objects, "-o", scratch / f"{name}.o"], check=True)
        subprocess.run(["ar", "rcs", archive, scratch / f"{name}.o"], check=True)
    print(f"{archive.name}: {len(names)} functions")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    cudarc, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        make(cudarc, folder, name)


if __name__ == "__main__":
    main()
