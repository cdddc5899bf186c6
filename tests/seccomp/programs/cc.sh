cat > a.c <<'END'
#include <pthread.h>
#include <stdio.h>
static void *f(void *p) { return p; }
int main(void) {
  pthread_t t;
  if (pthread_create(&t, 0, f, 0)) return 1;
  pthread_join(t, 0);
  puts("built");
}
END
cc -pipe -O2 -pthread -o a a.c
./a
