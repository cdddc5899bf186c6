/* surfaces: a descriptor or a state of each kernel surface that a session must not have. Stays alive with what it
 * got. */
#include "hostile.h"

#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <sys/personality.h>
#include <sys/swap.h>

int main(void)
{
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .exclude_kernel = 1};
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    char uring[120] = "", handle[136] = "\x80\0\0\0";
    int mount_id;
    say("userfaultfd", syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */));
    say("userfaultfd-kernel", syscall(SYS_userfaultfd, O_CLOEXEC));
    say("io_uring", syscall(SYS_io_uring_setup, 4, uring));
    say("perf", syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
    say("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
    say("fanotify", syscall(SYS_fanotify_init, 0x200 /* FAN_REPORT_FID */, O_RDONLY));
    say("secret", syscall(447 /* memfd_secret */, 0));
    say("name_to_handle", syscall(SYS_name_to_handle_at, AT_FDCWD, "/", handle, &mount_id, 0));
    say("open_by_handle", syscall(SYS_open_by_handle_at, AT_FDCWD, handle, O_RDONLY));
    say("personality", syscall(SYS_personality, ADDR_NO_RANDOMIZE | READ_IMPLIES_EXEC));
    say("keyring", syscall(SYS_keyctl, 0, -3, 1));
    say("add_key", syscall(SYS_add_key, "user", "alcove-hostile", "x", 1, -1 /* the thread's */));
    say("request_key", syscall(SYS_request_key, "user", "alcove-hostile", "x", -1));
    say("syslog", syscall(SYS_syslog, 3, NULL, 0));
    say("acct", syscall(SYS_acct, "/workspace/acct"));
    say("quotactl", syscall(SYS_quotactl, 0x800007, NULL, 0, NULL));
    say("swapoff", syscall(SYS_swapoff, "/workspace/none"));
    say("clock", syscall(SYS_clock_settime, 99, NULL));
    say("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 1));
    say("mempolicy", syscall(SYS_set_mempolicy, 0, NULL, 0));
    say("pidfd_getfd", syscall(438, -1, 0, 0));
    say("setns", syscall(SYS_setns, open("/proc/self/ns/net", O_RDONLY), 0));
    stay();
}
