/* Preloaded into a process: its clock of the day is off by WRONG_BY_SECONDS, and its steady clock stood still for as many seconds as the file
 * ASLEEP_FILE says, as if the machine had slept. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long asleep(void) {
    const char *path = getenv("ASLEEP_FILE");
    char text[16] = {0};
    long file = path == NULL ? -1 : syscall(SYS_openat, AT_FDCWD, path, O_RDONLY);
    if (file >= 0) {
        syscall(SYS_read, file, text, sizeof text - 1);
        syscall(SYS_close, file);
    }
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    const char *wrong_by = getenv("WRONG_BY_SECONDS");
    if (result == 0 && clock == CLOCK_REALTIME && wrong_by != NULL) {
        time->tv_sec += atol(wrong_by);
    }
    if (result == 0 && clock == CLOCK_MONOTONIC) {
        time->tv_sec -= asleep();
    }
    return result;
}
