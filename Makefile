# walarchive: `make` builds it, `make install` copies it to its place. `make demo` and `make test` install first what is missing.

PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config /usr/lib/postgresql/17/bin/pg_config) pg_config)
export DESTDIR PREFIX

.DEFAULT_GOAL := build
.PHONY: help build install uninstall deb demo test test-all torture recovery-point bench lint check-sql clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PG_CONFIG=$(PG_CONFIG)"

build: ## build the release for PG_CONFIG's PostgreSQL; make alone does it
	@scripts/install build "$(PG_CONFIG)"

install: ## copy it there, and link the binary to where psql is (DESTDIR and PREFIX are honoured)
	@scripts/install install "$(PG_CONFIG)"
	@scripts/link add "$(PG_CONFIG)"

uninstall: ## remove what install put there
	@scripts/link remove "$(PG_CONFIG)"
	@scripts/install uninstall "$(PG_CONFIG)"

deb: ## make a Debian package for PG_CONFIG's PostgreSQL, for apt install ./FILE.deb
	@scripts/deb "$(PG_CONFIG)"

demo: ## archive, back up, lose and restore a throw-away cluster before your eyes
	@scripts/demo

test: ## everything that must pass: lint, unit tests, end-to-end tests on PostgreSQL 15 and 18, the binary on 9.6 and 11
	@scripts/test

test-all: ## the same on PostgreSQL 9.6 to 18; 17 is that of a Debian 13 in a directory, which takes root
	@scripts/test 15 9.6 10 11 12 13 14 16 17 18

torture: ## chains of delta backups under random workloads, for MINUTES (60)
	@WALARCHIVE_TORTURE_MINUTES=$(or $(MINUTES),60) scripts/torture

recovery-point: ## what a machine that vanishes has lost, in ROUNDS (100) of each way to store the tail; SEED=N repeats
	@ROUNDS=$(or $(ROUNDS),100) SEED=$(SEED) scripts/recovery-point

bench: ## measure against pgBackRest, barman-cloud, pg_basebackup and others; QUICK=1: in 5 minutes. PG_CONFIG=… builds nothing
	@PG_CONFIG="$(if $(filter file,$(origin PG_CONFIG)),,$(PG_CONFIG))" QUICK="$(QUICK)" bench/run

lint: ## rustfmt and clippy over the whole workspace
	@scripts/lint

check-sql: ## compare the committed install script with what the code declares
	@scripts/check-sql

clean: ## remove what was built (what setup downloaded stays)
	cargo clean
