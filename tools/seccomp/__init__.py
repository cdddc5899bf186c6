"""The seccomp programs, generated: `python -m tools.seccomp` writes them, `--check` compares.

policy.toml (what, and why) and syscalls.csv (numbers) go in; the files in src/alcove/local/seccomp come out.
"""
