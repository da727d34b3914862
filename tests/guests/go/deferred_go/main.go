// Puts the end of each request off: OnDone answers no, and the next request of the same instance completes it. The log
// says what happens when, and what path a context still sees.
package main

import (
	"fmt"

	"weir.test/guests/proxywasm"
)

// waiting is the context that waits for its end; 0 if none does.
var waiting uint32

func log(what string, context uint32) {
	path, found := proxywasm.GetHeader(proxywasm.RequestHeaders, ":path")
	if !found {
		path = "nothing"
	}
	proxywasm.Log(proxywasm.LogInfo, fmt.Sprintf("deferred_go: %s %d sees %s", what, context, path))
}

func init() {
	proxywasm.OnRequestHeaders = func(context uint32, _ int, _ bool) proxywasm.Action {
		log("begins", context)
		if waiting != 0 && proxywasm.SetEffectiveContext(waiting) == proxywasm.StatusOK {
			log("completes", waiting)
			if proxywasm.Done() != proxywasm.StatusOK || proxywasm.Done() != proxywasm.StatusNotFound {
				log("cannot complete", waiting)
			}
			waiting = 0
			proxywasm.SetEffectiveContext(context)
		}
		return proxywasm.ActionContinue
	}
	proxywasm.OnDone = func(context uint32) bool {
		log("defers", context)
		waiting = context
		return false
	}
	proxywasm.OnLog = func(context uint32) { log("logs", context) }
	proxywasm.OnDelete = func(context uint32) { log("goes", context) }
}

// main never runs: the module is a library, a WASI reactor.
func main() {}
