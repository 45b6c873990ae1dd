/* Tries the calls that a broker could not see, or that are not for a container, and says which of them were let
 * through: then it exits with 1. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bad;

static void refused(const char *name, long done, int expected)
{
	if (done == -1 && errno == expected)
		return;
	fprintf(stderr, "%s: %ld, error %d\n", name, done, done == -1 ? errno : 0);
	bad = 1;
}

int main(int count, char **words)
{
	char zeros[256] = { 0 };
	int file = open(words[1], O_RDONLY);
	refused("io_uring_setup", syscall(425, 1, zeros), EPERM);
	refused("io_uring_enter", syscall(426, 0, 0, 0, 0, 0, 0), EPERM);
	refused("io_uring_register", syscall(427, 0, 0, 0, 0), EPERM);
	refused("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, zeros, O_RDWR), EPERM);
	refused("acct", syscall(SYS_acct, words[1]), EPERM);
	refused("swapon", syscall(SYS_swapon, words[1], 0), EPERM);
	refused("F_SETLEASE", syscall(SYS_fcntl, file, F_SETLEASE, F_RDLCK), EACCES);
	refused("F_SETLEASE, high half", syscall(SYS_fcntl, file, 1ull << 40 | F_SETLEASE, F_RDLCK), EACCES);
	refused("F_SETDELEG", syscall(SYS_fcntl, file, 1040, zeros), EINVAL);
	/* What programs do all the time goes on. */
	if (fcntl(file, F_GETFL) < 0 || fcntl(file, F_DUPFD_CLOEXEC, 0) < 0) {
		fprintf(stderr, "fcntl: error %d\n", errno);
		bad = 1;
	}
	return bad;
}
