/* A guest that races the broker with paths, threads, directories and descriptors. It opens, locks and
 * links what it shares and never writes to it: whatever changes in another guest, the broker has done.
 *
 * hostile SECONDS race        what it says above; the arguments that follow are names for traps
 * hostile 0 thirty-two PATH   appends a line to PATH by calls of the 32-bit convention
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PLACE "/usr/local/h"
static volatile int over;
static char path[256];
static char **traps;

static void *flip(void *none)
{
	static const char *paths[] = { "/usr/bin/tac", PLACE "/own", PLACE "/d/tac", "/proc/1/root/usr/bin/tac",
				       "/../../../usr/bin/nl", PLACE "/l/shuf", "/proc/self/root/usr/bin/od",
				       "/proc/thread-self/cwd/usr/bin/join", PLACE "/m/usr/bin/cut", "/proc/self/fd/200",
				       "/dev/fd/200", "/proc/self/task/../../1/root/usr/bin/nl" };
	for (unsigned i = 0; !over; i++)
		strcpy(path, paths[i % (sizeof paths / sizeof *paths)]);
	return none;
}

static void *open_flipping(void *none)
{
	while (!over) {
		int fd = open(path, O_RDWR);
		if (fd >= 0)
			close(fd);
	}
	return none;
}

static void *swap_directories(void *none)
{
	while (!over)
		syscall(SYS_renameat2, AT_FDCWD, PLACE "/d", AT_FDCWD, PLACE "/l", 2 /* RENAME_EXCHANGE */);
	return none;
}

/* Links of /proc that come and go while the broker follows them, and what they lead to. */
static void *swap_links(void *none)
{
	symlink("/proc/self/root", PLACE "/m");
	symlink("/proc/1/cwd", PLACE "/m1");
	symlink("m", PLACE "/m2");
	mkdir(PLACE "/m3", 0755);
	while (!over) {
		syscall(SYS_renameat2, AT_FDCWD, PLACE "/m", AT_FDCWD, PLACE "/m1", 2);
		syscall(SYS_renameat2, AT_FDCWD, PLACE "/m", AT_FDCWD, PLACE "/m3", 2);
		syscall(SYS_renameat2, AT_FDCWD, PLACE "/m1", AT_FDCWD, PLACE "/m2", 2);
	}
	return none;
}

/* Another process's directories and descriptors, which go away with it. */
static void *open_of_dying(void *none)
{
	char name[256];
	while (!over) {
		pid_t child = fork();
		if (child == 0) {
			dup2(open("/usr/bin/tac", O_RDONLY), 200);
			chdir("/usr/bin");
			_exit(0);
		}
		sprintf(name, "/proc/%d/cwd/tac", child);
		close(open(name, O_RDWR));
		sprintf(name, "/proc/%d/fd/200", child);
		close(open(name, O_RDWR));
		sprintf(name, "/proc/%d/root/usr/bin/nl", child);
		close(open(name, O_RDWR));
		waitpid(child, 0, 0);
	}
	return none;
}

/* Watches what other threads part from the other guests meanwhile. */
static void *watch(void *none)
{
	static const char *names[] = { "/usr/bin/tac", "/usr/bin/expand", PLACE "/d/nl", PLACE "/m/usr/bin/od" };
	int watcher = inotify_init1(IN_NONBLOCK);
	for (unsigned i = 0; !over; i++) {
		int number = inotify_add_watch(watcher, names[i % 4], IN_MODIFY | IN_OPEN);
		if (i % 64 == 0)
			inotify_rm_watch(watcher, number);
	}
	return none;
}

static void *open_below(void *none)
{
	static const char *names[] = { "tac", "nl", "od", "shuf", "cut", "join" };
	char name[256];
	for (unsigned i = 0; !over; i++) {
		snprintf(name, sizeof name, PLACE "/%s/%s", i & 1 ? "d" : "l", names[i % 6]);
		int fd = open(name, O_WRONLY);
		if (fd >= 0)
			close(fd);
	}
	return none;
}

static void *race_descriptors(void *none)
{
	int fd = open("/usr/bin/cut", O_RDONLY), own = open(PLACE "/own", O_RDONLY);
	while (!over) {
		int other = open("/usr/bin/comm", O_RDONLY);
		dup2(other, 200);
		flock(200, LOCK_EX | LOCK_NB);
		dup2(own, 200);
		flock(fd, LOCK_SH | LOCK_NB);
		flock(200, LOCK_UN);
		close(other);
	}
	return none;
}

static void *steal_descriptors(void *none)
{
	int own = open(PLACE "/own", O_RDONLY);
	while (!over)
		dup2(own, 200);
	return none;
}

static void *name_anew(void *none)
{
	char name[256];
	for (unsigned i = 0; !over; i++) {
		snprintf(name, sizeof name, PLACE "/n%u", i % 50);
		link(i & 1 ? "/usr/bin/env" : "/usr/bin/fold", name);
		rename(name, PLACE "/moved");
		rename("/usr/bin/paste", "/usr/bin/paste2");
		rename("/usr/bin/paste2", "/usr/bin/paste");
		unlink(PLACE "/moved");
	}
	return none;
}

static void *open_moving(void *none)
{
	while (!over) {
		int fd = open("/usr/bin/paste", O_RDWR);
		if (fd >= 0)
			close(fd);
	}
	return none;
}

static void *set_traps(void *none)
{
	for (unsigned i = 0; !over; i++) {
		if (!traps[0])
			break;
		for (char **trap = traps; *trap; trap++) {
			unlink(*trap);
			if (i & 1)
				symlink("/../../../../../../etc/passwd", *trap);
			else if (i & 2)
				link(PLACE "/own", *trap);
			else
				rename("/usr/bin/tee", *trap), link(*trap, "/usr/bin/tee");
		}
		usleep(1000);
	}
	return none;
}

static void *die_waiting(void *none)
{
	while (!over) {
		pid_t child = fork();
		if (child == 0) {
			for (;;) {
				close(open("/usr/bin/expand", O_RDWR));
				close(open("/usr/bin/fmt", O_RDWR));
			}
		}
		usleep(300);
		kill(child, SIGKILL);
		waitpid(child, 0, 0);
	}
	return none;
}

static long call32(long number, long a, long b, long c)
{
	long answer;
	__asm__ volatile("int $0x80" : "=a"(answer) : "a"(number), "b"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)answer;
}

static int thirty_two(const char *name)
{
	char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	strcpy(low, name);
	long fd = call32(5 /* open */, (long)low, O_WRONLY | O_APPEND, 0);
	if (fd < 0)
		return 1;
	strcpy(low, "32\n");
	return call32(4 /* write */, fd, (long)low, 3) == 3 ? 0 : 2;
}

int main(int count, char **arguments)
{
	static void *(*const races[])(void *) = { flip, open_flipping, open_flipping, swap_directories, open_below,
						  open_below, race_descriptors, steal_descriptors, name_anew,
						  open_moving, set_traps, die_waiting, swap_links,
						  open_of_dying, watch };
	enum { RACES = sizeof races / sizeof *races };
	pthread_t threads[RACES];
	if (count > 3 && !strcmp(arguments[2], "thirty-two"))
		return thirty_two(arguments[3]);
	if (count < 3)
		return 64;
	traps = arguments + 3;
	mkdir(PLACE, 0755);
	mkdir(PLACE "/d", 0755);
	symlink("/../../../../usr/bin", PLACE "/l");
	close(open(PLACE "/own", O_WRONLY | O_CREAT, 0644));
	link("/usr/bin/nl", PLACE "/d/nl");
	strcpy(path, PLACE "/own");
	for (int i = 0; i < RACES; i++)
		pthread_create(&threads[i], 0, races[i], 0);
	sleep(atoi(arguments[1]));
	over = 1;
	for (int i = 0; i < RACES; i++)
		pthread_join(threads[i], 0);
	return 0;
}
