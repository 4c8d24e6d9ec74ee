# A thin front for cmake, ctest and scripts/. On another system than Debian: install what `scripts/setup --list` names,
# then `make SETUP=true`.
PREFIX ?= /usr/local
SETUP ?= scripts/setup
JOBS ?= $(shell nproc)
BUILD := build/release
ON_SERVERS := $(filter-out 0 no,$(SERVERS))
# One build at a time in a folder, as ninja wants it: two of `make demo` may be started at once.
ALONE := mkdir -p build && flock build
CONFIGURE := $(ALONE) sh -c 'test -f $(BUILD)/build.ninja || cmake --preset release'
COMPILE := $(ALONE) cmake --build --preset release -j $(JOBS)

.PHONY: all demo demo-swap demo-migration test lint format bench faults install clean help
all:
	@$(SETUP) build
	@$(CONFIGURE)
	@$(COMPILE)

demo:
	@$(SETUP) build demo $(if $(ON_SERVERS),servers)
	@$(CONFIGURE)
	@$(COMPILE) --target tools bsu-sim
	@scripts/demo build/release/bin $(if $(ON_SERVERS),--servers)

demo-swap:
	@$(SETUP) build demo $(if $(filter sqlite,$(ENGINES)),,swap)
	@$(CONFIGURE)
	@$(COMPILE) --target tools bsu-sim
	@scripts/demo-swap build/release/bin $(if $(ENGINES),--engines $(ENGINES))

demo-migration:
	@$(SETUP) build migration
	@$(CONFIGURE)
	@$(COMPILE) --target tools rtdb-emulator orders-api
	@scripts/demo-migration build/release/bin

test:
	@$(SETUP) build test
	@$(CONFIGURE)
	@$(COMPILE)
	@ctest --test-dir $(BUILD) --no-tests=error --output-on-failure -j $(JOBS)

lint:
	@$(SETUP) build lint
	@scripts/lint

format:
	@$(SETUP) lint
	@find common tools tests -name '*.h' -o -name '*.cpp' | xargs -r clang-format -i

bench:
	@$(SETUP) build bench
	@$(CONFIGURE)
	@$(COMPILE)
	@tests/bench/run build/release

faults:
	@$(SETUP) build test
	@$(CONFIGURE)
	@$(COMPILE)
	@tests/faults/run --all

install: all
	@cmake --install $(BUILD) --prefix $(PREFIX) --strip

clean:
	@rm -rf build

help:
	@echo 'make              build the tools into $(BUILD)/bin'
	@echo 'make demo         the main job on this machine: a simulated fleet, three subscribers, a kill -9 half-way'
	@echo '                  SERVERS=1: on InfluxDB, Redis and S3, which it installs and starts; InfluxDB is killed, too'
	@echo 'make demo-swap    the fleet changes from InfluxDB to Postgres in flight, with backfill, outage, gap fill, kills and the proof'
	@echo '                  ENGINES=sqlite: from one SQLite file to another, without any server'
	@echo 'make demo-migration'
	@echo '                  orders of a Firebase database move into a REST service on Postgres while they change, with kills'
	@echo 'make test         every test'
	@echo 'make install      PREFIX=$(PREFIX), DESTDIR is honoured; tools, man pages, examples for systemd and cron'
	@echo 'make lint         format, clang-tidy, warnings as errors, layers, scripts, man pages'
	@echo 'make format       write the sources as make lint wants them'
	@echo 'make bench        throughput, each figure against a baseline of the same run'
	@echo 'make faults       the long rounds of kill -9 at random instants'
	@echo 'make clean        remove build/'
