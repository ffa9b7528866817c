# Hartvisor's commands. `make help` lists them. Every target first installs what it needs
# (lab/setup, which returns at once if nothing is missing).

TARGET := $(or $(CARGO_TARGET_DIR),target)
LINUX  := riscv64gc-unknown-linux-gnu
METAL  := riscv64gc-unknown-none-elf
GUEST  := $(TARGET)/$(METAL)/release/guest
# The guest's mode under `make qemu`: test, echo or poweroff.
CMDLINE ?= test
DISK   := $(TARGET)/qemu-disk.img
# `make fuzz`: seconds per target, the targets (all), and an input to run again.
T      ?= 30
FUZZ   ?=
INPUT  ?=
# `make test-pages`: one page (all)
PAGE   ?=
# `make compare`: more options, such as a peer
COMPARE ?=
# `make install`: the destination, and a directory prepended to it, for packagers.
PREFIX  ?= /usr/local
DESTDIR ?=
# `make deb`: Debian's name of this machine's architecture.
DEB_ARCH = $(shell dpkg --print-architecture)
# `make crash`
CYCLES ?= 100
# `make bench` and similar: the emulated host's kernel, host or next
HOST_KERNEL ?= host
SHELL  := /bin/bash
# Makes cargo run RISC-V programs in the emulated host.
IN_LAB := CARGO_TARGET_RISCV64GC_UNKNOWN_LINUX_GNU_RUNNER="$(CURDIR)/lab/run --aia-guests 2 --timeout 600 --"
# The tests, as arguments of lab/suite. Each command runs to its end, whatever fails.
UNITS := 'unit tests: cargo test --no-fail-fast --workspace --exclude micro' \
	'unit tests on RISC-V: $(IN_LAB) lab/cargo test --no-fail-fast --target $(LINUX) --package devices --package observe --package vmm --lib --features vmm/e2e' \
	'interleavings: $(MAKE) --no-print-directory interleavings'
E2E   := 'end to end: cargo test --no-fail-fast --package vmm --features e2e --tests' \
	'compare: cargo test --no-fail-fast --package compare --features e2e --test program'
# Tests that run again with the kernel of Debian's next release in the emulated host.
ON_NEXT := $(addprefix --test ,kvm matrix linux platform lifecycle observe conform)
FULL  := 'a back end of others: cargo test --package devices --test remote -- --ignored' \
	'end to end, all: cargo test --no-fail-fast --package vmm --features full --test "*"' \
	'on the next kernel: HARTVISOR_HOST_KERNEL=next cargo test --no-fail-fast --package vmm --features e2e $(ON_NEXT)' \
	'compare: cargo test --no-fail-fast --package compare --features full --tests' \
	'packages: $(MAKE) --no-print-directory test-deb' \
	'book: $(MAKE) --no-print-directory test-pages'
# What `make walk` executes in an empty root of each Debian release: our own guest, the page that ends
# at the login of a Debian guest, and a cloud image to its login.
WALK ?= 'make run' 'make test-pages PAGE=debian.md' 'make test-cloud'

.DEFAULT_GOAL := all
.PHONY: all setup install uninstall deb test-deb programs man-pages run qemu test test-full compare man test-docs test-pages test-cloud walk conform traps units interleavings fuzz bench bench-quick bench-boot bench-net bench-scale bench-micro bench-build crash coverage check lab clean distclean help

# A call per package: the library features of one must not be enabled in another.
all: setup ## build hartvisor for this machine and for RISC-V, and the bare-metal guest
	@$(MAKE) --no-print-directory programs
	lab/cargo build --release --target $(LINUX) --package vmm
	lab/cargo build --release --target $(LINUX) --package compare
	lab/cargo build --release --target $(METAL) --package guest

setup: ## install what is missing: RISC-V targets, linker, QEMU, a riscv64 kernel
	@lab/setup

install: programs man-pages ## install the programs, man pages and completions in PREFIX=/usr/local
	install -D --strip --target-directory=$(DESTDIR)$(PREFIX)/bin $(TARGET)/release/hartvisor $(TARGET)/release/hartvisor-compare
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/man/man1 $(TARGET)/manual/man1/*.1
	install -D --mode=644 $(TARGET)/manual/completions/hartvisor.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hartvisor
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/zsh/site-functions $(TARGET)/manual/completions/_hartvisor
	install -D --mode=644 --target-directory=$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(TARGET)/manual/completions/hartvisor.fish

uninstall: ## remove what make install put into PREFIX
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/hartvisor bin/hartvisor-compare share/man/man1/hartvisor.1 share/man/man1/hartvisor-*.1 \
		share/bash-completion/completions/hartvisor share/zsh/site-functions/_hartvisor share/fish/vendor_completions.d/hartvisor.fish)

deb: all man-pages ## Debian packages for this machine and for RISC-V, in target/deb
	rm -rf $(TARGET)/deb
	packaging/deb riscv64 $(TARGET)/$(LINUX)/release $(TARGET)/manual $(TARGET)/deb
	[[ $(DEB_ARCH) == riscv64 ]] || packaging/deb $(DEB_ARCH) $(TARGET)/release $(TARGET)/manual $(TARGET)/deb

test-deb: deb ## install, run and purge those packages in empty roots of Debian 12 and 13
	packaging/check $(TARGET)/deb

# These two need only Rust and a C compiler, not the set-up.
programs:
	cargo build --release --package vmm
	cargo build --release --package compare

man-pages:
	cargo run --quiet --package manual -- $(TARGET)/manual

run: all ## the guest in our VMM on RISC-V KVM, then the same guest under QEMU
	@lab/demo

qemu: all ## the guest under plain QEMU, without our VMM (CMDLINE=echo; Ctrl-a x leaves)
	@truncate --size=1M $(DISK)
	@echo "Ctrl-a x leaves, Ctrl-a h helps"
	qemu-system-riscv64 -machine virt -m 256M -nodefaults -display none -no-reboot \
		-global virtio-mmio.force-legacy=false -kernel $(GUEST) -append '$(CMDLINE)' \
		-chardev stdio,id=terminal,mux=on,signal=off -mon chardev=terminal -serial chardev:terminal \
		-device virtio-serial-device,bus=virtio-mmio-bus.0 -device virtconsole,chardev=terminal \
		-drive file=$(DISK),format=raw,if=none,id=disk \
		-device virtio-blk-device,bus=virtio-mmio-bus.1,drive=disk

test: all ## unit tests, then end to end in the emulated host and under QEMU
	@lab/suite $(UNITS) $(E2E)

test-full: all ## test, and long tests: Debian, a cloud image, the next kernel, Chromium (all fetched first)
	lab/fetch
	lab/cargo build --release --target $(LINUX) --package vmm --example kexec
	@lab/suite $(UNITS) $(FULL)

units: setup ## unit tests, on this machine and as a RISC-V build in the emulated host
	@lab/suite $(UNITS)

interleavings: ## queue and interrupt under every order that their memory orderings allow
	RUSTFLAGS="--cfg loom" cargo test --package devices --lib --target-dir $(TARGET)/loom interleavings

compare: all ## our guest and Debian in every way possible here: tables, and pages
	lab/compare $(COMPARE)

man: setup man-pages ## man pages, and completions for bash, zsh and fish, in target/manual

test-docs: test-pages walk ## test-pages and walk (test-full has only test-pages)

test-pages: all ## run the commands of README.md and docs, compare their output (PAGE=debian.md)
	lab/fetch recipe
	HARTVISOR_PAGE=$(PAGE) cargo test --package manual --test book -- --include-ignored

test-cloud: all ## make a disk as Debian's cloud images are, boot it to a login on KVM and under QEMU
	lab/fetch cloud
	cargo test --package vmm --features full --test cloud

walk: ## a new user's way in empty roots of Debian 12 and 13 (WALK="'make run'": one command)
	lab/walk bookworm $(WALK)
	lab/walk trixie $(WALK)

conform: all ## our devices and QEMU's against the specification (AIA=1; WRITE=1: into docs)
	$(if $(AIA),HARTVISOR_CONFORM_AIA=1) $(if $(WRITE),HARTVISOR_WRITE_DOCS=1) \
		cargo test --quiet --package vmm --features e2e --test conform -- --ignored --nocapture every_column

traps: all ## from one trap per byte to a batch of requests (WRITE=1: into the docs)
	$(if $(WRITE),HARTVISOR_WRITE_DOCS=1) \
		cargo test --quiet --package vmm --features e2e --test traps -- --ignored --nocapture

fuzz: setup ## fuzz targets, T=30 seconds each (FUZZ=block: one; INPUT=FILE: run it again)
	FUZZ_SECONDS=$(T) FUZZ_INPUT=$(INPUT) fuzz/run $(FUZZ)

crash: all ## kill the monitor CYCLES=100 times while Linux writes; synced data survives
	HARTVISOR_CRASH_CYCLES=$(CYCLES) cargo test --package vmm --features e2e --test crash killed -- --nocapture

coverage: setup ## the lines of devices/ that its own tests reach
	@lab/coverage

bench: bench-build ## the costs of hartvisor and QEMU, by an instruction clock (HOST_KERNEL=next)
	lab/fetch qemu
	cargo run --quiet --package bench --bin bench -- run --host-kernel $(HOST_KERNEL)

bench-quick: bench-build ## hartvisor alone, in two to three minutes (HOST_KERNEL=next)
	cargo run --quiet --package bench --bin bench -- run --quick --host-kernel $(HOST_KERNEL)

bench-boot: bench-build ## only start, memory and end, of hartvisor and QEMU
	lab/fetch qemu
	cargo run --quiet --package bench --bin bench -- run --boot --host-kernel $(HOST_KERNEL)

bench-net: bench-build ## the network by tap and passt, and sockets, of hartvisor and QEMU
	lab/fetch qemu
	cargo run --quiet --package bench --bin bench -- run --net --host-kernel $(HOST_KERNEL)

bench-scale: bench-build ## how costs grow with VMs, disks, memory and vCPUs (bench plot FILE draws them)
	lab/cargo build --release --target $(METAL) --package guest
	cargo run --quiet --package bench --bin bench -- scale --host-kernel $(HOST_KERNEL)

bench-micro: ## the parts on this machine: times by criterion, instructions by valgrind
	cargo bench --package micro --bench micro
	bench/instructions

# Two calls: the library features of one must not be enabled in the other.
bench-build: setup
	@[[ $(HOST_KERNEL) == host ]] || lab/fetch $(HOST_KERNEL)
	lab/cargo build --release --target $(LINUX) --package vmm
	lab/cargo build --release --target $(LINUX) --package bench --bins

check: setup ## formatting, lints on every target, documentation, scripts
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --package vmm --no-default-features --all-targets -- -D warnings
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	CARGO_TARGET_DIR=$(TARGET)/fuzz cargo clippy --manifest-path fuzz/Cargo.toml -- -D warnings
	lab/cargo clippy --target $(LINUX) --package devices --package vmm --package bench --all-targets -- -D warnings
	lab/cargo clippy --target $(METAL) --package guest --lib --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	shellcheck --external-sources lab/{setup,cargo,run,demo,compare,fetch,init,session,coverage,suite,walk} bench/{compare,instructions} packaging/{check,deb,copyright} fuzz/run .ci/run
	perl -wc lab/stream
	perl -wc lab/record
	perl -wc lab/timer

lab: all ## a shell in the emulated RISC-V KVM host, with hartvisor on its PATH
	@lab/run

clean: ## remove all build products
	rm -rf $(TARGET)

distclean: clean ## also remove all fetched files
	rm -rf lab/cache

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
