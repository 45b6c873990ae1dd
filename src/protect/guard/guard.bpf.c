/*
 * The guard: a marked regular file of a registered filesystem cannot be changed. Its names can: they
 * belong to directories. A displaced file, whose names were just exchanged for those of an object, cannot be
 * changed either: whoever comes for it is told ESTALE, on which the kernel looks the name up again.
 *
 * Each program sits on a hook of the kernel's security modules and answers 0 or an error. What a hook's
 * arguments are stands in include/linux/lsm_hook_defs.h; the last of `arguments` is what modules that
 * ran before have answered, and is kept.
 *
 * The structures name only the fields that are used; where they lie is asked of the kernel's BTF when
 * the program is loaded. What loads it, and what it does not cover: mod.rs.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define FROM_KERNEL __attribute__((preserve_access_index))
#define INLINE static inline __attribute__((always_inline))

struct super_block { u32 s_dev; } FROM_KERNEL;
struct inode { u16 i_mode; u32 i_flags; struct super_block *i_sb; unsigned long i_ino; } FROM_KERNEL;
struct dentry { struct inode *d_inode; } FROM_KERNEL;
struct path { struct dentry *dentry; } FROM_KERNEL;
struct file { u32 f_mode; struct inode *f_inode; } FROM_KERNEL;
struct task_struct;
struct pid_namespace { struct task_struct *child_reaper; } FROM_KERNEL;
struct nsproxy { struct pid_namespace *pid_ns_for_children; } FROM_KERNEL;
struct task_struct { struct task_struct *group_leader; u64 start_boottime; struct nsproxy *nsproxy; } FROM_KERNEL;

/* Numbers of the kernel's interface, as in include/uapi/linux/bpf.h. */
static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*current_pid_tgid)(void) = (void *)14;
static long (*current_comm)(void *buffer, u32 size) = (void *)16;
static u64 (*current_cgroup_id)(void) = (void *)80;
static void *(*inode_storage)(void *map, struct inode *inode, void *value, u64 flags) = (void *)145;
static struct task_struct *(*current_task)(void) = (void *)158;
enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PER_CPU_ARRAY = 6, MAP_LRU_HASH = 9, MAP_INODE_STORAGE = 28 };
enum { NO_PREALLOC = 1, STORAGE_CREATE = 1 };

/* include/linux/fs.h, include/uapi/linux/stat.h, include/uapi/asm-generic/fcntl.h */
enum { S_SYNC = 1, S_NOATIME = 2, FMODE_WRITE = 2, MAY_WRITE = 2 };
enum { S_IFMT = 0170000, S_IFREG = 0100000, F_UNLCK = 2, F_SET_RW_HINT = 1036, F_SETDELEG = 1040 };
enum { EPERM = 1, ENOTTY = 25, EMLINK = 31, ENOLCK = 37, ESTALE = 116 };

/* In the order of HOOKS in hook.rs. */
enum hook {
	INODE_PERMISSION, FILE_OPEN, INODE_SETATTR, INODE_SETXATTR, INODE_REMOVEXATTR, FILE_IOCTL, FILE_LOCK,
	INODE_SET_ACL, INODE_REMOVE_ACL, FILE_IOCTL_COMPAT, INODE_FILE_SETATTR, INODE_LINK, FILE_FCNTL, PATH_NOTIFY,
	HOOK_COUNT
};

/* Device numbers as the kernel keeps them: major << 20 | minor. What the values mean stands in pins.rs. */
struct {
	int (*type)[MAP_HASH]; int (*max_entries)[1024]; u32 *key; u8 *value;
} filesystems SECTION(".maps");

/* Processes of the host that may lock objects and mark them: pid, and when the process began, in
 * hundredths of a second, so that nobody inherits it together with the pid. With the highest bit, a process that is
 * refused like all others, but not written down: it tries the guard. */
struct {
	int (*type)[MAP_LRU_HASH]; int (*max_entries)[1024]; u32 *key; u64 *value;
} permitted SECTION(".maps");

struct {
	int (*type)[MAP_PER_CPU_ARRAY]; int (*max_entries)[HOOK_COUNT]; u32 *key; u64 *value;
} counters SECTION(".maps");

/* Words of 64 bits, as in refusal.rs. `number` is written last and counts from 1. */
struct refusal { u64 number, pid_and_hook, cgroup, device, inode; char command[16]; };
enum { KEPT = 64 };
struct {
	int (*type)[MAP_ARRAY]; int (*max_entries)[KEPT]; u32 *key; struct refusal *value;
} refusals SECTION(".maps");
struct {
	int (*type)[MAP_ARRAY]; int (*max_entries)[1]; u32 *key; u64 *value;
} refused SECTION(".maps");

/* Inodes whose names a command of vhashify has exchanged for links to an object, and which it has not put back:
 * the entry goes with the inode. (A table by device and number would hit the next file of that number.) */
struct {
	int (*type)[MAP_INODE_STORAGE]; int (*map_flags)[NO_PREALLOC]; int *key; u32 *value;
} displaced SECTION(".maps");

/* How many names each pid namespace has given an object. The namespace is known by the moment in which its first
 * process began: its number passes on to the next one. A guest that is not in the table any more, because more than
 * GUESTS have made some, shares the last count with others like it. */
enum { GUESTS = 64, MOST_NAMES = 1000, COUNT_BITS = 20 };
struct links { u64 guests[GUESTS]; }; /* microseconds << COUNT_BITS | count */
struct {
	int (*type)[MAP_INODE_STORAGE]; int (*map_flags)[NO_PREALLOC]; int *key; struct links *value;
} links_made SECTION(".maps");

/* Which guard this is: its loader writes it. */
struct {
	int (*type)[MAP_ARRAY]; int (*max_entries)[1]; u32 *key; u64 *value;
} version SECTION(".maps");

INLINE int is_watched(struct inode *inode)
{
	if (!inode || (inode->i_mode & S_IFMT) != S_IFREG)
		return 0;
	u32 device = inode->i_sb->s_dev;
	return map_lookup(&filesystems, &device) != 0;
}

INLINE int is_marked(struct inode *inode)
{
	return (inode->i_flags & (S_SYNC | S_NOATIME)) == (S_SYNC | S_NOATIME);
}

INLINE int is_guarded(struct inode *inode)
{
	return inode && is_marked(inode) && is_watched(inode);
}

enum { TRIES_THE_GUARD = 63 };

INLINE int is_entered(u64 as)
{
	u32 pid = current_pid_tgid() >> 32;
	u64 *began = map_lookup(&permitted, &pid);
	return began && *began == (current_task()->group_leader->start_boottime / 10000000 | as);
}

INLINE int is_permitted(void)
{
	return is_entered(0);
}

INLINE int refuse(struct inode *inode, u32 hook, int error)
{
	/* What vhashify tries on a file of its own, to see that the guard works, is nobody's attack. */
	if (is_permitted() || is_entered(1ull << TRIES_THE_GUARD))
		return -error;
	u64 *count = map_lookup(&counters, &hook);
	if (count)
		__sync_fetch_and_add(count, 1);
	u32 first = 0;
	u64 *total = map_lookup(&refused, &first);
	if (!total)
		return -error;
	u64 number = __sync_fetch_and_add(total, 1);
	u32 place = number % KEPT;
	struct refusal *refusal = map_lookup(&refusals, &place);
	if (refusal) {
		refusal->pid_and_hook = current_pid_tgid() >> 32 | (u64)hook << 32;
		refusal->cgroup = current_cgroup_id();
		refusal->device = inode->i_sb->s_dev;
		refusal->inode = inode->i_ino;
		current_comm(refusal->command, sizeof refusal->command);
		refusal->number = number + 1;
	}
	return -error;
}

/* ioctls, by their direction-less low half: type << 8 | number. */
#define REQUEST(type, number) ((type) << 8 | (number))

/* Those that read, and those of terminals ('T'), which every program tries and no file has. Also
 * FIDEDUPERANGE, where the file is only read: its destinations keep their content. */
INLINE int only_reads(u32 request)
{
	if ((request >> 8 & 0xff) == 'T')
		return 1;
	switch (request & 0xffff) {
	case REQUEST(0, 1):       /* FIBMAP */
	case REQUEST(0, 2):       /* FIGETBSZ */
	case REQUEST('f', 1):     /* FS_IOC_GETFLAGS, FS_IOC32_GETFLAGS */
	case REQUEST('f', 11):    /* FS_IOC_FIEMAP */
	case REQUEST('f', 134):   /* FS_IOC_MEASURE_VERITY */
	case REQUEST('f', 135):   /* FS_IOC_READ_VERITY_METADATA */
	case REQUEST('X', 31):    /* FS_IOC_FSGETXATTR */
	case REQUEST('v', 1):     /* FS_IOC_GETVERSION */
	case REQUEST(0x94, 49):   /* FS_IOC_GETFSLABEL */
	case REQUEST(0x94, 54):   /* FIDEDUPERANGE */
		return 1;
	}
	return 0;
}

/* FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR, which set the mark, and FS_IOC_ENABLE_VERITY. */
INLINE int is_for_host(u32 request)
{
	request &= 0xffff;
	return request == REQUEST('f', 2) || request == REQUEST('X', 32) || request == REQUEST('f', 133);
}

/* What a filesystem answers to a request that it does not know, unless it is one of its own. */
INLINE int answer(u32 request)
{
	switch (request >> 8 & 0xff) {
	case 'f': case 'v': case 'X': case 0x94: case 0xf5:
		return EPERM;
	}
	return ENOTTY;
}

INLINE int ioctl(struct file *file, u32 request, u32 hook)
{
	struct inode *inode = file->f_inode;
	if (!is_watched(inode) || only_reads(request) || (is_for_host(request) && is_permitted()))
		return 0;
	if (inode_storage(&displaced, inode, 0, 0))
		return -ESTALE;
	return is_marked(inode) ? refuse(inode, hook, answer(request)) : 0;
}

/* An object is refused; a displaced inode is looked up again. The mark of a displaced one is read after its
 * i_writecount was raised or its lock was taken, and set before either is looked at: so one of the two sides
 * always sees the other. */
INLINE int changes(struct inode *inode, u32 hook)
{
	if (!is_watched(inode))
		return 0;
	if (inode_storage(&displaced, inode, 0, 0))
		return -ESTALE;
	return is_marked(inode) ? refuse(inode, hook, EPERM) : 0;
}

/* d_inode is read once: newer verifiers believe of each read by itself that it may be null. */
INLINE int change(struct dentry *dentry, u32 hook)
{
	return changes(dentry->d_inode, hook);
}

#define PROGRAM(hook, name, count, body)                         \
	SECTION("lsm/" #hook) int name(u64 *arguments)           \
	{                                                        \
		int before = (int)arguments[count];              \
		if (before)                                      \
			return before;                           \
		body                                             \
	}
#define ARGUMENT(number, type) ((type)arguments[number])

/* May a file be written to? open(2) and truncate(2) ask this before they count as a writer (i_writecount) and
 * before they break leases (vfs_truncate and do_dentry_open, fs/open.c). By the time of the hooks below a refused
 * attempt in one guest has made the file look busy: to execve(2) in every other guest, which fails with ETXTBSY
 * then, and to a command that takes a lease on it. So this hook stays, although the kernel asks it for every
 * component of a path. */
PROGRAM(inode_permission, inode_permission, 2, {
	struct inode *inode = ARGUMENT(0, struct inode *);
	return ARGUMENT(1, u32) & MAY_WRITE ? changes(inode, INODE_PERMISSION) : 0;
})

/* For what the kernel opens without asking that. */
PROGRAM(file_open, file_open, 1, {
	struct file *file = ARGUMENT(0, struct file *);
	return file->f_mode & FMODE_WRITE ? changes(file->f_inode, FILE_OPEN) : 0;
})

/* truncate, chmod, chown and utimes come together here. In 6.12 an argument comes first that says how
 * the mount maps owners; 6.1 has none, and has no hooks of their own for ACLs, which are attributes. */
PROGRAM(inode_setattr, inode_setattr, 3, { return change(ARGUMENT(1, struct dentry *), INODE_SETATTR); })
PROGRAM(inode_setattr, inode_setattr_of_two, 2, {
	return change(ARGUMENT(0, struct dentry *), INODE_SETATTR);
})
PROGRAM(inode_setxattr, inode_setxattr, 6, { return change(ARGUMENT(1, struct dentry *), INODE_SETXATTR); })
PROGRAM(inode_removexattr, inode_removexattr, 3, {
	return change(ARGUMENT(1, struct dentry *), INODE_REMOVEXATTR);
})
PROGRAM(inode_set_acl, inode_set_acl, 4, { return change(ARGUMENT(1, struct dentry *), INODE_SET_ACL); })
PROGRAM(inode_remove_acl, inode_remove_acl, 3, {
	return change(ARGUMENT(1, struct dentry *), INODE_REMOVE_ACL);
})

PROGRAM(file_ioctl, file_ioctl, 3, {
	return ioctl(ARGUMENT(0, struct file *), ARGUMENT(1, u32), FILE_IOCTL);
})
PROGRAM(file_ioctl_compat, file_ioctl_compat, 3, {
	return ioctl(ARGUMENT(0, struct file *), ARGUMENT(1, u32), FILE_IOCTL_COMPAT);
})

/* file_setattr(2), and the ioctls above once more. */
PROGRAM(inode_file_setattr, inode_file_setattr, 2, {
	struct dentry *dentry = ARGUMENT(0, struct dentry *);
	return is_permitted() ? 0 : change(dentry, INODE_FILE_SETATTR);
})

/* flock, fcntl's locks and leases belong to the inode, and would reach every guest. */
PROGRAM(file_lock, file_lock, 2, {
	struct file *file = ARGUMENT(0, struct file *);
	if (ARGUMENT(1, u32) == F_UNLCK || !is_guarded(file->f_inode) || is_permitted())
		return 0;
	return refuse(file->f_inode, FILE_LOCK, ENOLCK);
})

/* A name that a guest gives an object takes one of the links that the inode can have, and so one of every other
 * guest's. A displaced inode gets no new name: the one that is meant leads to the object. */
INLINE int add_name(struct inode *inode)
{
	if (!is_watched(inode))
		return 0;
	if (inode_storage(&displaced, inode, 0, 0))
		return -ESTALE;
	if (!is_marked(inode) || is_permitted())
		return 0;
	struct links *links = inode_storage(&links_made, inode, 0, STORAGE_CREATE);
	if (!links)
		return refuse(inode, INODE_LINK, EMLINK);
	u64 began = current_task()->nsproxy->pid_ns_for_children->child_reaper->start_boottime;
	u64 guest = (began >> 10 | 1) << COUNT_BITS;
	for (u32 place = 0; place < GUESTS; place++) {
		u64 *entry = &links->guests[place];
		if (!*entry)
			__sync_val_compare_and_swap(entry, 0, guest);
		if (*entry >> COUNT_BITS != guest >> COUNT_BITS && place < GUESTS - 1)
			continue;
		if ((*entry & ((1 << COUNT_BITS) - 1)) >= MOST_NAMES)
			return refuse(inode, INODE_LINK, EMLINK);
		__sync_fetch_and_add(entry, 1);
		return 0;
	}
	return 0;
}

PROGRAM(inode_link, inode_link, 3, { return add_name(ARGUMENT(0, struct dentry *)->d_inode); })

/* Hints and delegations belong to the inode, too. */
PROGRAM(file_fcntl, file_fcntl, 3, {
	struct file *file = ARGUMENT(0, struct file *);
	u32 request = ARGUMENT(1, u32);
	if ((request != F_SET_RW_HINT && request != F_SETDELEG) || !is_guarded(file->f_inode) || is_permitted())
		return 0;
	return refuse(file->f_inode, FILE_FCNTL, EPERM);
})

/* Whoever watches an object sees when other guests open it. */
PROGRAM(path_notify, path_notify, 3, {
	struct path *path = ARGUMENT(0, struct path *);
	struct inode *inode = path->dentry->d_inode;
	return is_guarded(inode) && !is_permitted() ? refuse(inode, PATH_NOTIFY, EPERM) : 0;
})

char terms[] SECTION("license") = "GPL";
