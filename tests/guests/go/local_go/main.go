// Answers requests for /local, and puts a response of its own in the place of one that has the header `x-replace`.
package main

import "weir.test/guests/proxywasm"

func init() {
	proxywasm.OnRequestHeaders = func(uint32, int, bool) proxywasm.Action {
		if path, _ := proxywasm.GetHeader(proxywasm.RequestHeaders, ":path"); path != "/local" {
			return proxywasm.ActionContinue
		}
		headers := []proxywasm.Pair{{Name: "x-by", Value: "local_go"}, {Name: "x-by", Value: "twice"}}
		proxywasm.Respond(403, "local_go has answered", headers, "denied by local_go")
		return proxywasm.ActionPause
	}
	proxywasm.OnResponseHeaders = func(uint32, int, bool) proxywasm.Action {
		if _, found := proxywasm.GetHeader(proxywasm.ResponseHeaders, "x-replace"); !found {
			return proxywasm.ActionContinue
		}
		proxywasm.Respond(503, "", nil, "replaced by local_go")
		return proxywasm.ActionPause
	}
}

// main never runs: the module is a library, a WASI reactor.
func main() {}
