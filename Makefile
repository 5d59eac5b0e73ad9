# Two commands are enough: `make demo` and `make test`. Each installs what is missing (and asks before it does).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
# apt and cargo both take one caller at a time.
.NOTPARALLEL:
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
# The versions in Cargo.lock and no others.
CARGOFLAGS ?= --locked
# Where rustup puts cargo, for a shell that was open before it came; administrators' tools, for everyone.
export PATH := $(PATH):/usr/sbin:/sbin:$(HOME)/.cargo/bin

# Where cargo puts what it builds.
BUILT := $(or $(CARGO_TARGET_DIR),target)
IMAGES := out/images
BUILDERS := $(wildcard tests/guests/lib.sh)
TINY := $(IMAGES)/tiny/manifest.json
DEBIAN := $(IMAGES)/debian/manifest.json
INSTALL_DEPS := tests/tools/install-deps.sh

.PHONY: help demo test nat-full crash-test crash-sim month-sim ledger-full sim-full sim-live bench fuzz hostile-full image-tiny image-debian bundle-tiny bundle-debian lint install \
	deps-%

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: deps-demo $(TINY) ## rent a VM from another node process on this machine, use it, give it back
	$(CARGO) build $(CARGOFLAGS) -p cli
	$(BUILT)/debug/golemnode demo --image $(IMAGES)/tiny

test: deps-test $(TINY) ## every test, with real guests; says at the end what it skipped and why
	CARGO="$(CARGO)" CARGOFLAGS="$(CARGOFLAGS)" tests/tools/run-tests.sh

nat-full: deps-test ## hosts behind NATs at length, as root: 200 MB over each way, 10 minutes and 1 GB by a relay
	$(CARGO) build $(CARGOFLAGS) -p cli
	GOLEMNODE_NAT_FULL=1 $(CARGO) test $(CARGOFLAGS) -p tests --test e2e -- nat:: --test-threads 1 --nocapture

KILLS ?= 500
crash-test: deps-test $(TINY) ## kill -9 of a provider with real guests, hundreds of times (KILLS=50); goes on where it was ended
	$(CARGO) build $(CARGOFLAGS) -p cli -p tests --bins
	GOLEMNODE_TEST_IMAGES="$(CURDIR)/$(IMAGES)" $(BUILT)/debug/crash $(KILLS)

CRASHES ?= 21000
crash-sim: deps-build ## a hundred thousand deaths of a simulated provider, at each step (CRASHES=runs, of five deaths each)
	SIM_SEEDS=$(CRASHES) $(CARGO) test --release $(CARGOFLAGS) -p simulations --no-default-features --test main \
		crashes -- --nocapture

month-sim: deps-build ## a thousand VMs rented, renewed and billed for thirty days, receipts against books of their own
	SIM_SEED=0 MONTH_VMS=1000 MONTH_DAYS=30 $(CARGO) test --release $(CARGOFLAGS) -p simulations --no-default-features \
		--test main receipts_add -- --nocapture

SEQUENCES ?= 1000000
ledger-full: deps-build ## a million random sequences against the model of a provider, every answer compared (SEQUENCES=n)
	PROPTEST_CASES=$(SEQUENCES) nice -n 10 $(CARGO) test --release $(CARGOFLAGS) -p protocol --test main ledger::

SCENARIOS ?= $(wildcard simulations/scenarios/*.toml)
sim-full: deps-build ## every scenario at its full size, and one 100 times for the same trace (SCENARIOS='…' for some)
	$(CARGO) build --profile sim $(CARGOFLAGS) -p cli
	mkdir -p out/sim
	failed=""; for file in $(SCENARIOS); do \
		$(BUILT)/sim/golemnode sim run "$$file" --full --plot out/sim || failed="$$failed $$file"; done; \
	[ -z "$$failed" ] || { echo "sim-full: these failed:$$failed" >&2; exit 1; }
	tests/tools/same-trace.sh $(BUILT)/sim/golemnode simulations/scenarios/oversell.toml 100

bench: deps-test $(TINY) ## measure against plain virsh, scp and noise+yamux (BENCH='stream --pairs 20' measures a part)
	$(CARGO) build --release $(CARGOFLAGS) -p cli -p tests --bins
	GOLEMNODE_TEST_IMAGES="$(CURDIR)/$(IMAGES)" $(BUILT)/release/bench $(BENCH)

fuzz: deps-build ## hostile input for every decoder, 60 s each (FUZZ='10 core board' is 10 s for these two)
	tests/tools/fuzz.sh $(FUZZ)

hostile-full: deps-build ## ten million bad adverts, and a million malformed frames of every protocol; hours
	$(CARGO) test --release $(CARGOFLAGS) -p protocol --test main hostile::ten -- --ignored --nocapture
	$(CARGO) build --release $(CARGOFLAGS) -p cli -p tests --bins
	$(BUILT)/release/hostile $(HOSTILE)

sim-live: deps-build ## many real nodes in one process, beside the bare library (SIM='50,200 ours', 'lookups 50 10000', 'calibrate')
	$(CARGO) run --profile sim $(CARGOFLAGS) -p simulations --bin live -- $(SIM)

image-tiny: deps-build deps-run $(TINY) ## build the guest 'tiny' and import it into the home (GOLEMNODE_HOME)
	$(CARGO) build $(CARGOFLAGS) -p cli
	$(BUILT)/debug/golemnode image import $(IMAGES)/tiny

image-debian: deps-build deps-run $(DEBIAN) ## build the guest 'debian:12' and import it into the home
	$(CARGO) build $(CARGOFLAGS) -p cli
	$(BUILT)/debug/golemnode image import $(IMAGES)/debian

lint: deps-lint ## what CI checks before it runs the tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGOFLAGS) --workspace --all-targets -- -D warnings
	$(CARGO) clippy $(CARGOFLAGS) -p backends -p node -p cli --no-default-features -- -D warnings
	tests/tools/check-layers.sh
	tests/tools/check-purity.sh
	tests/tools/check-scripts.sh
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --log-level error check bans licenses sources; \
	else echo "make lint: cargo-deny is not there, dependencies were not judged (cargo install --locked cargo-deny)"; fi

install: deps-build ## the release binary, manual pages and completions, below PREFIX (/usr/local)
	$(CARGO) build --release $(CARGOFLAGS) -p cli
	install -D -m 755 $(BUILT)/release/golemnode "$(DESTDIR)$(PREFIX)/bin/golemnode"
	rm -rf out/man && $(BUILT)/release/golemnode man out/man
	install -d "$(DESTDIR)$(PREFIX)/share/man/man1"
	install -m 644 out/man/*.1 "$(DESTDIR)$(PREFIX)/share/man/man1/"
	install -d $(addprefix "$(DESTDIR)$(PREFIX)"/share/,bash-completion/completions zsh/site-functions fish/vendor_completions.d)
	$(BUILT)/release/golemnode completions bash >"$(DESTDIR)$(PREFIX)/share/bash-completion/completions/golemnode"
	$(BUILT)/release/golemnode completions zsh >"$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_golemnode"
	$(BUILT)/release/golemnode completions fish >"$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/golemnode.fish"

deps-%:
	@$(INSTALL_DEPS) $*

# The bundles are kept until what they are made from changes.
bundle-tiny: $(TINY)
bundle-debian: $(DEBIAN)
$(TINY): tests/guests/build-tiny.sh $(BUILDERS) $(wildcard tests/guests/tiny.*) $(shell find tests/guests/tiny -type f 2>/dev/null) | deps-tiny
	tests/guests/build-tiny.sh $(IMAGES)/tiny
$(DEBIAN): tests/guests/build-debian.sh $(BUILDERS) $(wildcard tests/guests/debian.*) $(shell find tests/guests/debian -type f 2>/dev/null) | deps-guests
	tests/guests/build-debian.sh $(IMAGES)/debian
