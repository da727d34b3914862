// The tests' guests in Go; scripts/build-guests builds them. A guest is a folder with a main.go.
module weir.test/guests

go 1.25
