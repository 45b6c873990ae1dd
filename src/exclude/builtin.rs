//! The list that is used when the host gives none: it keeps out what belongs to one guest alone
//! (its identity, its state, its users' data) and what programs rewrite in place.
//!
//! Three questions decide about a path: is it likely to be the same in several guests, is it
//! large enough to matter, and is it always replaced by `rename(2)`, never written in place? Only
//! three times yes earns a `+` below a directory that is otherwise kept out.

/// The built-in list, in the syntax of a pattern file; a host can start its own from it.
pub const TEXT: &str = r"# vhashify's built-in list. The first matching line decides.

# Kernel file systems, and what does not outlive a boot.
/dev
/proc
/sys
/selinux
/run
/tmp

# People's and services' own data: theirs to write at any time.
/home
/root
/srv
/mnt
/media
/lost+found
/swapfile
/swap.img

# Kernels are large, equal and replaced as a whole. All else in /boot is made for one guest
# (initrd) or written in place (GRUB's grubenv, even by the boot loader itself).
~/boot
+/boot/vmlinuz-*
+/boot/System.map-*
+/boot/config-*
/boot/*

# /etc is what makes a guest itself, and editors write there in place. Four generated files are
# large, mostly equal, and written to a temporary name first: the certificate bundles (Debian's
# and Red Hat's), the hardware database, and the compiled SELinux policy.
~/etc
~/etc/ssl
~/etc/ssl/certs
+/etc/ssl/certs/ca-certificates.crt
~/etc/pki
~/etc/pki/ca-trust
+/etc/pki/ca-trust/extracted
+/etc/pki/ca-trust/extracted/*
~/etc/udev
+/etc/udev/hwdb.bin
~/etc/selinux
+/etc/selinux/*/policy/policy.*
~/etc/selinux/*/
/etc/*

# /var is state. The exceptions are what package managers download or unpack.
~/var
~/var/lib

# dpkg writes each of its info files anew and renames it; the status file beside them differs.
~/var/lib/dpkg
+/var/lib/dpkg/info
+/var/lib/dpkg/info/*

# apt downloads and patches in partial/ and renames what it has verified. Guests of one release
# share these tens of megabytes. Its *.bin caches depend on each guest's status.
~/var/lib/apt
~/var/lib/apt/lists
/var/lib/apt/lists/partial
/var/lib/apt/lists/auxfiles
/var/lib/apt/lists/lock
+/var/lib/apt/lists/*
~/var/cache
~/var/cache/apt
~/var/cache/apt/archives
/var/cache/apt/archives/partial
+/var/cache/apt/archives/*.deb

# pacman downloads to *.part and renames. Of an installed package only the mtree is never
# rewritten: desc holds the reason of installation, which pacman -D changes in place.
~/var/lib/pacman
~/var/lib/pacman/sync
+/var/lib/pacman/sync/*.db
+/var/lib/pacman/sync/*.files
~/var/lib/pacman/local
+/var/lib/pacman/local/*/mtree
~/var/lib/pacman/local/*/
~/var/cache/pacman
~/var/cache/pacman/pkg
/var/cache/pacman/pkg/*.part
+/var/cache/pacman/pkg/*.pkg.tar*
/var/*

# Package databases outside /var: SQLite and Berkeley DB write in place.
/.rpmdb
/usr/lib/sysimage/rpm
/usr/share/rpm
/lib/apk/db
/usr/lib/apk/db

# Indexes among static files that tools append to or rewrite in place: locale-archive is mapped
# and written by localedef, dir by install-info, perllocal.pod by every module that is installed
# by hand, ls-R by mktexlsr.
*/locale/locale-archive
*/share/info/dir
*/perllocal.pod
*/ls-R
";
