// Uses what Go's standard library wants from WASI: streams, clocks, random numbers, the environment, and no files; and
// what Go's runtime does by itself: goroutines and the collection of garbage. It tells the log what it finds when it
// starts, and the response's headers in each request.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"weir.test/guests/proxywasm"
)

func variable(name string) string {
	if value, found := os.LookupEnv(name); found {
		return value
	}
	return "-"
}

func random() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		return err.Error()
	}
	return hex.EncodeToString(bytes)
}

func yes(value bool) string {
	if value {
		return "yes"
	}
	return "no"
}

func findings() string {
	before := time.Now()
	hasClocks := before.Year() > 2020 && time.Since(before) >= 0
	_, err := os.Open("/etc/passwd")
	return fmt.Sprintf("granted=%s home=%s random=%s clocks=%s files=%s", variable("GRANTED"), variable("HOME"),
		yes(random() != random()), yes(hasClocks), yes(err == nil))
}

// sum adds numbers in goroutines that wait for each other.
func sum(count int) int {
	numbers := make(chan int)
	var group sync.WaitGroup
	for number := range count {
		group.Go(func() { numbers <- number })
	}
	go func() {
		group.Wait()
		close(numbers)
	}()
	total := 0
	for number := range numbers {
		total += number
	}
	return total
}

func init() {
	proxywasm.OnVMStart = func(int) bool {
		fmt.Println("to the output:", findings())
		fmt.Fprintf(os.Stderr, "to the errors: %d %s\n", 42, "text")
		return true
	}
	proxywasm.OnRequestHeaders = func(uint32, int, bool) proxywasm.Action {
		garbage := make([][]byte, 100)
		for i := range garbage {
			garbage[i] = make([]byte, 1000)
		}
		runtime.GC()
		if sum(10) != 45 {
			return proxywasm.ActionPause
		}
		return proxywasm.ActionContinue
	}
	proxywasm.OnResponseHeaders = func(uint32, int, bool) proxywasm.Action {
		proxywasm.AddHeader(proxywasm.ResponseHeaders, "x-runtime", findings())
		return proxywasm.ActionContinue
	}
}

// main never runs: the module is a library, a WASI reactor.
func main() {}
