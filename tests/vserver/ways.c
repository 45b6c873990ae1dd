/* Each way here leads to a shared file that the broker has to find, and changes it by one byte, or its mode.
 *
 * ways             those that need no capability
 * ways mounts      those of a guest that may mount
 *
 * It prints a line for each way: its name, and "written" or the error. The file of a way is DIR/NAME, and that of a
 * change that succeeded must read so by its ordinary name afterwards ("lost" otherwise).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define DIR "/opt/ways"
#define APPEND (O_WRONLY | O_APPEND)

static char path[4096];

static const char *say(const char *format, const char *name)
{
	snprintf(path, sizeof path, format, name);
	return path;
}

static int append(int file)
{
	if (file < 0)
		return -1;
	int done = write(file, "X", 1) == 1 ? 0 : -1;
	close(file);
	return done;
}

static int by_path(const char *format, const char *name)
{
	return append(open(say(format, name), APPEND));
}

static int with_how(int at, const char *name, uint64_t resolve)
{
	struct { uint64_t flags, mode, resolve; } how = { APPEND, 0, resolve };
	return append(syscall(437, at, name, &how, sizeof how));
}

static int plain(const char *n) { return by_path(DIR "/%s", n); }
static int self_root(const char *n) { return by_path("/proc/self/root" DIR "/%s", n); }
static int thread_root(const char *n) { return by_path("/proc/thread-self/root" DIR "/%s", n); }
static int init_root(const char *n) { return by_path("/proc/1/root" DIR "/%s", n); }
static int number_root(const char *n)
{
	char format[64];
	sprintf(format, "/proc/%d/root" DIR "/%%s", getpid());
	return by_path(format, n);
}
static int task_cwd(const char *n)
{
	char format[64];
	chdir(DIR);
	sprintf(format, "/proc/self/task/%d/cwd/%%s", (int)syscall(SYS_gettid));
	return by_path(format, n);
}
static int climbs_out_of_proc(const char *n) { return by_path("/proc/self/../../" DIR "/%s", n); }
static int climbs_from_cwd(const char *n)
{
	chdir(DIR);
	return by_path("/proc/self/cwd/../../opt/ways/%s", n);
}
static int link_to_cwd(const char *n)
{
	char target[256];
	chdir("/");
	sprintf(target, "/proc/self/cwd" DIR "/%s", n);
	symlink(target, "/opt/to-cwd");
	return append(open("/opt/to-cwd", APPEND));
}
static int forty_links(const char *n)
{
	char from[64], to[256];
	sprintf(to, DIR "/%s", n);
	for (int i = 0; i < 40; i++) {
		sprintf(from, "/opt/chain%d", i);
		symlink(to, from);
		strcpy(to, from);
	}
	return append(open(from, APPEND));
}
static int links_in_proc(const char *n)
{
	char from[64], to[256];
	sprintf(to, "/proc/self/root/" DIR "/%s", n);
	for (int i = 0; i < 12; i++) {
		sprintf(from, "/opt/mixed%d", i);
		symlink(to, from);
		sprintf(to, "/proc/self/root%s", from);
	}
	return append(open(from, APPEND));
}

/* Descriptors that are open for reading. */
static int own_descriptor(const char *n)
{
	char format[64];
	sprintf(format, "/proc/self/fd/%d", open(say(DIR "/%s", n), O_RDONLY));
	return append(open(format, APPEND));
}
static int dev_fd(const char *n)
{
	char format[64];
	sprintf(format, "/dev/fd/%d", open(say(DIR "/%s", n), O_RDONLY));
	return append(open(format, APPEND));
}
static int dev_stdin(const char *n)
{
	dup2(open(say(DIR "/%s", n), O_RDONLY), 0);
	return append(open("/dev/stdin", APPEND));
}
static int descriptor_of_path(const char *n)
{
	char format[64];
	sprintf(format, "/proc/self/fd/%d", open(say(DIR "/%s", n), O_PATH));
	return append(open(format, APPEND));
}
static int directory_descriptor(const char *n)
{
	char format[64];
	sprintf(format, "/proc/self/fd/%d/%%s", open(DIR, O_RDONLY));
	return by_path(format, n);
}
static int descriptor_of_child(const char *n)
{
	char name[64];
	int held = open(say(DIR "/%s", n), O_RDONLY);
	pid_t child = fork();
	if (!child) {
		pause();
		_exit(0);
	}
	sprintf(name, "/proc/%d/fd/%d", child, held);
	close(held);
	int done = append(open(name, APPEND)), error = errno;
	kill(child, SIGKILL);
	waitpid(child, 0, 0);
	errno = error;
	return done;
}
static int descriptor_in_both(const char *n)
{
	char name[64];
	int held = open(say(DIR "/%s", n), O_RDONLY);
	pid_t child = fork();
	if (!child) {
		pause();
		_exit(0);
	}
	sprintf(name, "/proc/%d/fd/%d", child, held);
	int done = append(open(name, APPEND)), error = errno;
	kill(child, SIGKILL);
	waitpid(child, 0, 0);
	errno = error;
	return done;
}
static int followed_link(const char *n)
{
	char name[64];
	sprintf(name, "/proc/self/fd/%d", open(say(DIR "/%s", n), O_RDONLY));
	if (linkat(AT_FDCWD, name, AT_FDCWD, "/opt/linked", AT_SYMLINK_FOLLOW))
		return -1;
	return append(open("/opt/linked", APPEND));
}

/* Directories from which a path begins. */
static int at_directory(const char *n) { return append(openat(open(DIR, O_PATH), n, APPEND)); }
static int climbs(const char *n)
{
	mkdir("/opt/x", 0755);
	chdir("/opt/x");
	return by_path("../ways/%s", n);
}
static int cwd_that_is_gone(const char *n)
{
	mkdir("/opt/gone", 0755);
	chdir("/opt/gone");
	rmdir("/opt/gone");
	return by_path("../ways/%s", n);
}
static int cwd_outside_of_root(const char *n)
{
	mkdir("/opt/jail", 0755);
	chdir("/");
	chroot("/opt/jail");
	return by_path("opt/ways/%s", n);
}
static int climbs_outside_of_root(const char *n)
{
	mkdir("/opt/jail", 0755);
	chdir("/opt");
	chroot("/opt/jail");
	return by_path("../opt/ways/%s", n);
}
static int by_way_of_its_root(const char *n)
{
	/* In the root directory `..` stays, wherever the way came from: the file is DIR/NAME of the jail. */
	mkdir("/opt/jail2", 0755);
	chdir("/opt");
	chroot("/opt/jail2");
	mkdir("/ways", 0755);
	int to = open("/ways", O_PATH);
	if (linkat(AT_FDCWD, say("ways/%s", n), to, n, 0))
		return -1;
	return by_path("jail2/../ways/%s", n);
}
static int deep_cwd(const char *n)
{
	char name[201];
	memset(name, 'd', 200);
	name[200] = 0;
	mkdir("/opt/deep", 0755);
	chdir("/opt/deep");
	for (int i = 0; i < 30; i++) {
		mkdir(name, 0755);
		chdir(name);
	}
	if (linkat(AT_FDCWD, say(DIR "/%s", n), AT_FDCWD, "here", 0))
		return -1;
	return append(open("here", APPEND));
}
static int deep_root(const char *n)
{
	char name[201];
	memset(name, 'r', 200);
	name[200] = 0;
	mkdir("/opt/deeproot", 0755);
	chdir("/opt/deeproot");
	for (int i = 0; i < 30; i++) {
		mkdir(name, 0755);
		chdir(name);
	}
	if (linkat(AT_FDCWD, say(DIR "/%s", n), AT_FDCWD, "here", 0) || chroot("."))
		return -1;
	return append(open("here", APPEND));
}
static int not_a_descriptor(const char *n)
{
	/* A root directory without /proc, in which /dev/fd/0 is a file. */
	mkdir("/opt/bare", 0755);
	mkdir("/opt/bare/dev", 0755);
	mkdir("/opt/bare/dev/fd", 0755);
	if (link(say(DIR "/%s", n), "/opt/bare/dev/fd/0") || chroot("/opt/bare"))
		return -1;
	return append(open("/dev/fd/0", APPEND));
}
static int not_a_procfs(const char *n)
{
	mkdir("/opt/fake", 0755);
	mkdir("/opt/fake/proc", 0755);
	mkdir("/opt/fake/proc/self", 0755);
	mkdir("/opt/fake/proc/self/fd", 0755);
	if (link(say(DIR "/%s", n), "/opt/fake/proc/self/fd/2") || chroot("/opt/fake"))
		return -1;
	return append(open("/proc/self/fd/2", APPEND));
}

/* openat2 */
static int in_root(const char *n) { return with_how(open("/", O_PATH), say("opt/ways/%s", n), 0x10); }
static int in_another_root(const char *n) { return with_how(open(DIR, O_PATH), say("/../../%s", n), 0x10); }
static int in_root_of_cwd(const char *n)
{
	chdir(DIR);
	return with_how(AT_FDCWD, say("/%s", n), 0x10);
}
static int beneath(const char *n) { return with_how(open("/opt", O_PATH), say("ways/../ways/%s", n), 0x08); }
static int no_symlinks(const char *n) { return with_how(AT_FDCWD, say(DIR "/%s", n), 0x04); }
static int no_magic_links(const char *n) { return with_how(AT_FDCWD, say(DIR "/%s", n), 0x02); }
static int no_other_mount(const char *n) { return with_how(open(DIR, O_PATH), n, 0x01); }
static int cached(const char *n)
{
	struct stat found;
	stat(say(DIR "/%s", n), &found);
	return with_how(AT_FDCWD, path, 0x20);
}
static int larger_how(const char *n)
{
	uint64_t how[5] = { APPEND };
	return append(syscall(437, AT_FDCWD, say(DIR "/%s", n), how, sizeof how));
}

/* Memory that no other process reads. */
static char *secret(void)
{
	int file = syscall(447 /* memfd_secret */, 0);
	if (file < 0 || ftruncate(file, 4096))
		return 0;
	char *at = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	return at == MAP_FAILED ? 0 : at;
}
static int secret_path(const char *n)
{
	char *at = secret();
	if (!at)
		return -1;
	sprintf(at, DIR "/%s", n);
	return append(open(at, APPEND));
}
static int secret_how(const char *n)
{
	uint64_t *how = (uint64_t *)secret();
	if (!how)
		return -1;
	how[0] = APPEND;
	return append(syscall(437, AT_FDCWD, say(DIR "/%s", n), how, 24));
}

/* Other changes than of content. */
static int chmod_by_root(const char *n) { return chmod(say("/proc/self/root" DIR "/%s", n), 0641); }
static int truncate_by_root(const char *n) { return truncate(say("/proc/self/root" DIR "/%s", n), 3); }
static int attribute_by_descriptor(const char *n)
{
	char name[64];
	sprintf(name, "/proc/self/fd/%d", open(say(DIR "/%s", n), O_PATH));
	return setxattr(name, "user.x", "X", 1, 0);
}
static int times_by_descriptor(const char *n)
{
	struct timespec times[2] = { { 5, 0 }, { 5, 0 } };
	char name[64];
	sprintf(name, "/dev/fd/%d", open(say(DIR "/%s", n), O_RDONLY));
	return utimensat(AT_FDCWD, name, times, 0);
}
/* Calls that the library of the filter may not know. */
static int fchmodat_2(const char *n) { return syscall(452, AT_FDCWD, say(DIR "/%s", n), 0641, 0); }
static int setxattr_at(const char *n)
{
	struct { uint64_t value; uint32_t size, flags; } how = { (uint64_t) "X", 1, 0 };
	return syscall(463, AT_FDCWD, say(DIR "/%s", n), 0, "user.x", &how, sizeof how);
}
static int file_set_attr(const char *n)
{
	uint64_t attributes[3] = { 0x80 /* FS_XFLAG_NODUMP */ };
	return syscall(469, AT_FDCWD, say(DIR "/%s", n), attributes, sizeof attributes, 0);
}

/* What belongs to the inode, and is no content. */
static int hint(const char *n)
{
	uint64_t hint = 4;
	return fcntl(open(say(DIR "/%s", n), O_RDONLY), 1036 /* F_SET_RW_HINT */, &hint);
}
static int lock_with_a_high_half(const char *n)
{
	struct flock lock = { .l_type = F_RDLCK };
	return syscall(SYS_fcntl, open(say(DIR "/%s", n), O_RDONLY), 1ull << 40 | F_SETLK, &lock);
}
/* Whoever watches a file sees what its own guest writes to it. */
static int sees_a_write(int watcher, const char *n)
{
	char event[512];
	if (plain(n))
		return -1;
	if (read(watcher, event, sizeof event) > 0)
		return 0;
	errno = ENOMSG;
	return -1;
}
static int watched(const char *n)
{
	int watcher = inotify_init1(IN_NONBLOCK);
	if (inotify_add_watch(watcher, say(DIR "/%s", n), IN_MODIFY) < 0)
		return -1;
	return sees_a_write(watcher, n);
}
static int watched_by_fanotify(const char *n)
{
	int watcher = syscall(SYS_fanotify_init, 0x202 /* FAN_REPORT_FID, FAN_NONBLOCK */, O_RDONLY);
	if (watcher < 0)
		return -1;
	if (syscall(SYS_fanotify_mark, watcher, 1 /* FAN_MARK_ADD */, 2ull /* FAN_MODIFY */, AT_FDCWD, say(DIR "/%s", n)))
		return -1;
	return sees_a_write(watcher, n);
}

/* Of a guest that may mount. */
static int proc_elsewhere(const char *n)
{
	mkdir("/opt/p", 0755);
	if (mount("none", "/opt/p", "proc", 0, 0))
		return -1;
	return by_path("/opt/p/self/root" DIR "/%s", n);
}
static int proc_of_another_namespace(const char *n)
{
	mkdir("/opt/q", 0755);
	if (unshare(CLONE_NEWPID | CLONE_NEWNS))
		return -1;
	mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
	pid_t child = fork();
	if (!child) {
		if (mount("none", "/opt/q", "proc", 0, 0))
			_exit(errno);
		/* Both: it is 1 there, and another number in the guest's own. */
		if (by_path("/opt/q/self/root" DIR "/%s", n))
			_exit(errno);
		_exit(by_path("/proc/self/cwd/../" DIR "/%s", n) ? errno : 0);
	}
	int status;
	waitpid(child, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}
static int proc_without_the_caller(const char *n)
{
	/* `self` leads nowhere there; the number of its process 1 does. */
	mkdir("/opt/r", 0755);
	int up[2];
	pipe(up);
	if (unshare(CLONE_NEWPID))
		return -1;
	pid_t child = fork();
	if (!child) {
		mount("none", "/opt/r", "proc", 0, 0);
		close(up[1]);
		pause();
		_exit(0);
	}
	close(up[1]);
	char byte;
	read(up[0], &byte, 1);
	int none = open(say("/opt/r/self/root" DIR "/%s", n), APPEND);
	int done = none < 0 ? by_path("/opt/r/1/root" DIR "/%s", n) : 0, error = errno;
	kill(child, SIGKILL);
	waitpid(child, 0, 0);
	errno = error;
	return done;
}
static int another_mount_namespace(const char *n)
{
	if (unshare(CLONE_NEWNS))
		return -1;
	mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
	mkdir("/opt/bound", 0755);
	if (mount(DIR, "/opt/bound", 0, MS_BIND, 0))
		return -1;
	return by_path("/opt/bound/%s", n);
}
static int below_another_mount(const char *n)
{
	/* The directory that it is in has no path any more. */
	if (unshare(CLONE_NEWNS))
		return -1;
	mount(0, "/", 0, MS_REC | MS_PRIVATE, 0);
	chdir(DIR);
	if (mount("none", DIR, "tmpfs", 0, 0))
		return -1;
	close(open(say(DIR "/%s", n), O_CREAT | O_WRONLY, 0644));
	int done = append(open(n, APPEND)), error = errno;
	umount(DIR);
	errno = error;
	return done;
}

#define WAY(name) { #name, name }
struct way { const char *name; int (*go)(const char *); };
static const struct way usual[] = {
	WAY(plain), WAY(self_root), WAY(thread_root), WAY(init_root), WAY(number_root), WAY(task_cwd),
	WAY(climbs_out_of_proc), WAY(climbs_from_cwd), WAY(link_to_cwd), WAY(forty_links), WAY(links_in_proc),
	WAY(own_descriptor), WAY(dev_fd), WAY(dev_stdin), WAY(descriptor_of_path), WAY(directory_descriptor),
	WAY(descriptor_of_child), WAY(descriptor_in_both), WAY(followed_link), WAY(at_directory), WAY(climbs),
	WAY(cwd_that_is_gone), WAY(cwd_outside_of_root), WAY(climbs_outside_of_root), WAY(by_way_of_its_root),
	WAY(deep_cwd), WAY(deep_root), WAY(not_a_descriptor), WAY(not_a_procfs), WAY(in_root), WAY(in_another_root),
	WAY(in_root_of_cwd), WAY(beneath), WAY(no_symlinks), WAY(no_magic_links), WAY(no_other_mount), WAY(cached),
	WAY(larger_how), WAY(secret_path), WAY(secret_how), WAY(chmod_by_root), WAY(truncate_by_root),
	WAY(attribute_by_descriptor), WAY(times_by_descriptor), WAY(fchmodat_2), WAY(setxattr_at),
	WAY(file_set_attr), WAY(hint), WAY(lock_with_a_high_half), WAY(watched), WAY(watched_by_fanotify),
}, mounts[] = {
	WAY(proc_elsewhere), WAY(proc_of_another_namespace), WAY(proc_without_the_caller),
	WAY(another_mount_namespace), WAY(below_another_mount),
};

int main(int count, char **words)
{
	int is_usual = count < 2, ways = is_usual ? sizeof usual / sizeof *usual : sizeof mounts / sizeof *mounts;
	const struct way *all = is_usual ? usual : mounts;
	for (int i = 0; i < ways; i++) {
		struct stat before, after;
		char name[256];
		snprintf(name, sizeof name, DIR "/%s", all[i].name);
		if (stat(name, &before)) {
			printf("%s: no file\n", all[i].name);
			continue;
		}
		int status;
		/* Each has a root and a working directory of its own to lose. */
		if (!fork())
			_exit(all[i].go(all[i].name) ? errno : 0);
		wait(&status);
		if (status) {
			printf("%s: %s\n", all[i].name, WIFEXITED(status) ? strerror(WEXITSTATUS(status)) : "killed");
			continue;
		}
		stat(name, &after);
		printf("%s: %s\n", all[i].name, before.st_ctim.tv_sec == after.st_ctim.tv_sec &&
			before.st_ctim.tv_nsec == after.st_ctim.tv_nsec ? "lost" : "written");
	}
	return 0;
}
