/* A C library of exactly what the launcher calls, under the usual names and declared by the host's own headers: the
 * host's start-up asks the processor what it can do, and in a virtual machine each such question is a trip to the
 * hypervisor (0.3 ms in all); its size and its relocations are paid for by every process of every session.
 * What is missing here fails at the link.
 *
 * For programs of one thread: errno is a plain variable, fork and setresuid are the bare system calls. */
#ifndef ALCOVE_RUNTIME_H
#define ALCOVE_RUNTIME_H

/* A system call's answer as C tells it: errno and -1. */
long runtime_result(long answer);

#ifdef __x86_64__
void runtime_restore(void); /* where a signal handler returns to; other kernels bring their own */
#endif

#endif
