# Each target installs, with apt, what it needs and the machine lacks.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build demo test test-vm test-kernels torture torture-vm fuzz lint audit times doc bench bench-vm fmt clean \
	toolchain clang test-tools vm-tools lint-tools lint-quick guests disks test-build ci-tools

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

# What the tests of this host need.
test-tools: toolchain clang
	@fixtures/install.sh debootstrap mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs \
		mkfs.btrfs:btrfs-progs losetup:mount chromium \
		ip:iproute2 rsync git ed script:bsdutils ps:procps setfacl:acl sqlite3 \
		crun runc lxc-start:lxc busybox:busybox-static nft:nftables

vm-tools: toolchain clang
	@fixtures/install.sh debootstrap qemu-system-x86_64:qemu-system-x86 setpriv:util-linux

lint-tools: toolchain clang
	@fixtures/install.sh shellcheck jq

# What tests and machines are made of, so that no test waits for it.
guests: test-tools
	@fixtures/guests.sh "$${VHASHIFY_GUESTS:-$(TARGET)/guests}" alpha beta booting
disks: vm-tools
	@fixtures/machines.sh "$(TARGET)/vm"

# All that is run, so that nobody else has to compile.
test-build: test-tools
	$(CARGO) build --locked --features fault-injection --bins --tests

test: test-tools ## every test, on real guests and real ext4, XFS and Btrfs (root)
	fixtures/test.sh

test-vm: vm-tools ## tests under kernels of Debian 12, 13 and backports, in QEMU (root)
	fixtures/test.sh vm::debian_

test-kernels: vm-tools ## those of the guard under the kernels between, for half an hour (root)
	fixtures/test.sh vm::kernels_between_

torture: toolchain clang ## the invariants under fire for MINUTES (10), a line for each (root)
	@fixtures/install.sh mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs losetup:mount
	@# Before the clock runs: what is as hostile, but no race. A million names take half a minute.
	VHASHIFY_TORTURE=long $(CARGO) test --locked --features fault-injection --test runner adversary::
	VHASHIFY_TORTURE_MINUTES="$${MINUTES:-10}" \
		$(CARGO) test --locked --features fault-injection --test torture

torture-vm: vm-tools ## the invariants under fire in these machines, with the guard and an adversary (root)
	fixtures/test.sh vm::torture::

fuzz: toolchain ## the parsers of hostile input, each for VHASHIFY_FUZZ_SECONDS (600)
	@fixtures/install.sh c++:g++
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked --root "$(TOOLS)" cargo-fuzz
	fixtures/fuzz.sh "$(TARGET)/fuzz" "$${VHASHIFY_FUZZ_SECONDS:-600}"

# What fails within seconds.
lint-quick: lint-tools
	shellcheck fixtures/*.sh tests/vm/*.sh .ci/run
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	rustfmt --check --edition 2024 crates/sys/reaper/main.rs
	fixtures/licences.sh

lint: lint-quick ## formatting, clippy, documentation, licences, shell scripts
	@# All code, and what is left of it without its features. What the fuzz targets assert is in both.
	$(CARGO) clippy --workspace --all-targets --locked --features fault-injection -- -D warnings
	$(CARGO) clippy --workspace --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --locked --features fault-injection

audit: toolchain ## licences, bans and sources once more, and known vulnerabilities, by cargo-deny
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --root "$(TOOLS)" cargo-deny
	$(CARGO) deny --locked check

# All that .ci/run installs, before it starts anything.
ci-tools: test-tools vm-tools lint-tools

times: ## how long each stage of the last .ci/run took
	@fixtures/times.sh "$(TARGET)/ci/times"

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

bench-vm: vm-tools ## what the guard costs, under the kernels of Debian 12 and 13 (root); nothing is asserted
	fixtures/test.sh vm::overhead::

fmt: ## format the sources
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml
	rustfmt --edition 2024 crates/sys/reaper/main.rs

clean: ## remove what was built, the demo and the guests
	$(CARGO) clean

toolchain:
	@fixtures/toolchain.sh
	@fixtures/install.sh /usr/include/seccomp.h:libseccomp-dev

# Compiles the guard.
clang:
	@fixtures/install.sh clang
