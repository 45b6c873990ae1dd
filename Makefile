# Each target installs, with apt, what it needs and the machine lacks.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo test test-vm torture torture-vm fuzz lint doc bench bench-vm fmt clean toolchain clang

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Outside the build directory, so that `make clean` does not cost the minutes that it took.
TOOLS := $(CURDIR)/.cache/tools
export PATH := $(PATH):$(HOME)/.cargo/bin:$(TOOLS)/bin:/usr/sbin:/sbin

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: toolchain clang ## the programs, optimised, in target/release
	$(CARGO) build --release --locked

demo: toolchain clang ## two real Debian guests, unified, all in target/demo
	@$(CARGO) build --release --locked --quiet
	@fixtures/demo.sh "$(TARGET)/demo" "$(TARGET)/release/vhashify"

test: toolchain clang ## every test, on real guests and real ext4, XFS and Btrfs (root)
	@fixtures/install.sh debootstrap mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs \
		mkfs.btrfs:btrfs-progs losetup:mount c++:g++ chromium \
		ip:iproute2 rsync git ed script:bsdutils ps:procps setfacl:acl sqlite3 \
		crun runc lxc-start:lxc busybox:busybox-static
	$(CARGO) build --locked --workspace --features fault-injection
	$(CARGO) test --locked --workspace --features fault-injection
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked --root "$(TOOLS)" cargo-fuzz
	fixtures/fuzz.sh "$(TARGET)/fuzz" short

fuzz: toolchain ## the parsers of hostile input, each for VHASHIFY_FUZZ_SECONDS (600)
	@fixtures/install.sh c++:g++
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked --root "$(TOOLS)" cargo-fuzz
	fixtures/fuzz.sh "$(TARGET)/fuzz" "$${VHASHIFY_FUZZ_SECONDS:-600}"

torture: toolchain clang ## the invariants under fire for MINUTES (10), a line for each (root)
	@fixtures/install.sh mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs losetup:mount
	@# Before the clock runs: what is as hostile, but no race. A million names take half a minute.
	VHASHIFY_TORTURE=long $(CARGO) test --locked --features fault-injection --test adversary
	VHASHIFY_TORTURE_MINUTES="$${MINUTES:-10}" \
		$(CARGO) test --locked --features fault-injection --test torture

test-vm: toolchain clang ## tests under the kernels of Debian 12 and 13, in QEMU (root)
	@fixtures/install.sh debootstrap qemu-system-x86_64:qemu-system-x86 setpriv:util-linux
	$(CARGO) test --locked --features fault-injection --test vm

torture-vm: toolchain clang ## the invariants under fire in these machines, with the guard and an adversary (root)
	@fixtures/install.sh debootstrap qemu-system-x86_64:qemu-system-x86 setpriv:util-linux
	$(CARGO) test --locked --features fault-injection --test vm -- \
		--ignored torture --nocapture --test-threads=1

lint: toolchain clang ## formatting, clippy, documentation, licences, shell scripts
	@fixtures/install.sh shellcheck
	shellcheck fixtures/*.sh tests/vm/*.sh .ci/run
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --all-targets --locked --no-default-features -- -D warnings
	$(CARGO) clippy --all-targets --locked --features fault-injection -- -D warnings
	@# Nothing is linked here, so that libFuzzer need not be compiled once more.
	CUSTOM_LIBFUZZER_PATH=/none $(CARGO) clippy --all-targets --locked \
		--manifest-path fuzz/Cargo.toml --target-dir "$(TARGET)" -- -D warnings
	$(CARGO) clippy --test vm --test guard --locked --features fault-injection -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --locked
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --root "$(TOOLS)" cargo-deny
	$(CARGO) deny --locked check bans licenses sources

doc: toolchain clang ## the documentation, in target/doc
	$(CARGO) doc --no-deps --locked

bench: toolchain clang ## each stage, and runs beside other tools (root); VHASHIFY_BENCH=full for hours
	@fixtures/install.sh debootstrap mkfs.ext4:e2fsprogs losetup:mount jdupes rdfind rmlint duperemove ostree \
		runc b3sum /usr/bin/time:time
	@command -v fclones >/dev/null || $(CARGO) install --locked --root "$(TOOLS)" fclones || \
		echo "bench: fclones cannot be built here; it is left out" >&2
	$(CARGO) build --release --locked
	$(CARGO) bench --locked --bench stages --bench peers --bench guests --bench broker
	$(CARGO) bench --locked --bench drawing

bench-vm: toolchain clang ## what the guard costs, under the kernels of Debian 12 and 13 (root); nothing is asserted
	@fixtures/install.sh debootstrap qemu-system-x86_64:qemu-system-x86 setpriv:util-linux
	$(CARGO) test --locked --features fault-injection --test vm -- \
		--ignored overhead --nocapture --test-threads=1

fmt: ## format the sources
	$(CARGO) fmt
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

clean: ## remove what was built, the demo and the guests
	$(CARGO) clean

toolchain:
	@fixtures/toolchain.sh
	@fixtures/install.sh /usr/include/seccomp.h:libseccomp-dev

# Compiles the guard.
clang:
	@fixtures/install.sh clang
