# demo  everything a user does, for real       test  the whole test run (CI calls it)
# bench what builds cost on this machine
# fmt   formats the Rust code                  clean removes what the others made in this folder
.PHONY: demo test bench fmt clean

demo:
	@tests/support/demo.sh

test:
	@tests/support/run_tests.sh

bench:
	@tests/support/bench.sh

fmt:
	cargo fmt --all

clean:
	tests/support/daemons.sh stop .fixtures/daemons
	rm -rf .fixtures
	cargo clean
