# walarchive: the two commands are `make demo` and `make test`. Both install what is missing first.

PG_CONFIG ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin/pg_config /usr/lib/postgresql/17/bin/pg_config) pg_config)
export DESTDIR

.DEFAULT_GOAL := help
.PHONY: help demo test test-all torture lint check-sql install uninstall clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PG_CONFIG=$(PG_CONFIG)"

demo: ## archive, back up, lose and restore a throw-away cluster before your eyes
	@scripts/demo

test: ## everything that must pass: lint, unit tests, end-to-end tests on PostgreSQL 15 and 18
	@scripts/test

test-all: ## the same on PostgreSQL 15 to 18; 17 is that of a Debian 13 in a directory, which takes root
	@scripts/test 15 16 17 18

torture: ## chains of delta backups under random workloads, for MINUTES (60)
	@WALARCHIVE_TORTURE_MINUTES=$(or $(MINUTES),60) scripts/torture

lint: ## rustfmt and clippy over the whole workspace
	@scripts/lint

check-sql: ## compare the committed install script with what the code declares
	@scripts/check-sql

install: ## build the release for PG_CONFIG's PostgreSQL and install it (DESTDIR is honoured)
	@scripts/install install "$(PG_CONFIG)"

uninstall: ## remove what install put there
	@scripts/install uninstall "$(PG_CONFIG)"

clean: ## remove what was built (what setup downloaded stays)
	cargo clean
