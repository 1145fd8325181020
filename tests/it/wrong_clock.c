/* Preloaded into a process: its clock of the day is off by WRONG_BY_SECONDS, and no other clock is. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *wrong_by = getenv("WRONG_BY_SECONDS");
    if (result == 0 && clock == CLOCK_REALTIME && wrong_by != NULL) {
        time->tv_sec += atol(wrong_by);
    }
    return result;
}
