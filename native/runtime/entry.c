/* What C cannot say: the first instruction, the system call, and vfork. */
#include "runtime.h"

/* vfork: the child returns first, on the same stack, and overwrites what lies there. So our return address is kept
 * in a register, of which the kernel gives each of the two its own. */
#if defined __x86_64__
__asm__(
    ".pushsection .text.entry,\"ax\",@progbits\n"
    ".globl _start\n.type _start,@function\n"
    "_start:\n"
    "    xorl %ebp, %ebp\n"
    "    movq %rsp, %rdi\n"
    "    andq $-16, %rsp\n"
    "    call runtime_start\n"
    "    ud2\n"
    ".size _start, .-_start\n"

    ".globl syscall\n.hidden syscall\n.type syscall,@function\n"
    "syscall:\n"
    "    endbr64\n"
    "    movq %rdi, %rax\n"
    "    movq %rsi, %rdi\n"
    "    movq %rdx, %rsi\n"
    "    movq %rcx, %rdx\n"
    "    movq %r8, %r10\n"
    "    movq %r9, %r8\n"
    "    movq 8(%rsp), %r9\n"
    "    syscall\n"
    "    movq %rax, %rdi\n"
    "    jmp runtime_result\n"
    ".size syscall, .-syscall\n"

    ".globl vfork\n.hidden vfork\n.type vfork,@function\n"
    "vfork:\n"
    "    endbr64\n"
    "    popq %rdx\n"
    "    movl $58, %eax\n"
    "    syscall\n"
    "    pushq %rdx\n"
    "    movq %rax, %rdi\n"
    "    jmp runtime_result\n"
    ".size vfork, .-vfork\n"

    ".globl runtime_restore\n.hidden runtime_restore\n.type runtime_restore,@function\n"
    "runtime_restore:\n"
    "    movl $15, %eax\n"
    "    syscall\n"
    "    ud2\n"
    ".size runtime_restore, .-runtime_restore\n"
    ".popsection\n");
#elif defined __aarch64__
__asm__(
    ".pushsection .text.entry,\"ax\",@progbits\n"
    ".globl _start\n.type _start,%function\n"
    "_start:\n"
    "    hint 34\n" /* bti c, for assemblers that do not know it */
    "    mov x29, #0\n"
    "    mov x30, #0\n"
    "    mov x0, sp\n"
    "    bl runtime_start\n"
    "    brk 1\n"
    ".size _start, .-_start\n"

    ".globl syscall\n.hidden syscall\n.type syscall,%function\n"
    "syscall:\n"
    "    hint 34\n"
    "    mov x8, x0\n"
    "    mov x0, x1\n"
    "    mov x1, x2\n"
    "    mov x2, x3\n"
    "    mov x3, x4\n"
    "    mov x4, x5\n"
    "    mov x5, x6\n"
    "    svc 0\n"
    "    b runtime_result\n"
    ".size syscall, .-syscall\n"

    ".globl vfork\n.hidden vfork\n.type vfork,%function\n"
    "vfork:\n"
    "    hint 34\n"
    "    mov x0, #0x4111\n" /* CLONE_VFORK | CLONE_VM | SIGCHLD */
    "    mov x1, #0\n"
    "    mov x8, #220\n"
    "    svc 0\n"
    "    b runtime_result\n"
    ".size vfork, .-vfork\n"
    ".popsection\n");
#else
#error "native/meson.build takes the host's C library for this architecture"
#endif
