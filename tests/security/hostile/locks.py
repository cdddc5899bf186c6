"""locks PATH [leases]: locks on a file, kept while this stays. A lease would end with another open."""

import fcntl
import os
import sys

from tests.security.hostile.raw import attempt, stay

F_SETLEASE = 1024
F_NOTIFY = 1026

if __name__ == "__main__":
    fd = os.open(sys.argv[1], os.O_RDONLY)
    attempt("flock", lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    attempt("record-read", lambda: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB))
    attempt("record-write", lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))
    if "leases" in sys.argv:
        attempt("lease-read", lambda: fcntl.fcntl(fd, F_SETLEASE, fcntl.F_RDLCK))
        attempt("lease-write", lambda: fcntl.fcntl(fd, F_SETLEASE, fcntl.F_WRLCK))
    stay()
