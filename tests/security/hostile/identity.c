/* identity: what a set-id or capability bit on this very file gives; stays alive with it. */
#include "hostile.h"

int main(void)
{
    printf("uid %d euid %d\n", (int)getuid(), (int)geteuid());
    say("setuid", setuid(0));
    stay();
}
