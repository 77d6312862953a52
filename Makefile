# demo  everything a user does, for real       test  the whole test run (CI calls it)
# bench what builds cost on this machine       fuzz  a minute of random input for every parser
# fmt   formats the Rust code                  clean removes what the others made in this folder
.PHONY: demo test bench fuzz fmt clean

demo:
	@tests/support/demo.sh

test:
	@tests/support/run_tests.sh

bench:
	@tests/support/bench.sh

fuzz:
	@tests/support/run_fuzz.sh

fmt:
	cargo fmt --all

clean:
	tests/support/daemons.sh stop .fixtures/daemons
	rm -rf .fixtures
	cargo clean
