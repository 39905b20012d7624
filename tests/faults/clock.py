"""What a program needs besides libfaketime to run by a clock that jumps."""

from __future__ import annotations

# libfaketime 0.9.10 refuses every sleep on a clock that it is told to leave alone.
SLEEP = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) ? errno : 0;
}
"""
