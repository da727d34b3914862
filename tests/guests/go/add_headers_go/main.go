// Adds `x-weir-go: request` to requests and `x-weir-go: response` to responses, and logs a line in each callback.
package main

import (
	"fmt"

	"weir.test/guests/proxywasm"
)

func log(format string, arguments ...any) {
	proxywasm.Log(proxywasm.LogInfo, "add_headers_go: "+fmt.Sprintf(format, arguments...))
}

func init() {
	proxywasm.OnContextCreate = func(context, parent uint32) {
		log("on_context_create ctx=%d parent=%d", context, parent)
	}
	proxywasm.OnVMStart = func(int) bool {
		text, _ := proxywasm.GetBuffer(proxywasm.VMConfiguration)
		log("on_vm_start %s", text)
		return true
	}
	proxywasm.OnConfigure = func(uint32, int) bool {
		text, _ := proxywasm.GetBuffer(proxywasm.PluginConfiguration)
		log("on_configure %s", text)
		return true
	}
	proxywasm.OnRequestHeaders = func(uint32, int, bool) proxywasm.Action {
		path, _ := proxywasm.GetHeader(proxywasm.RequestHeaders, ":path")
		log("on_request_headers %s", path)
		proxywasm.AddHeader(proxywasm.RequestHeaders, "x-weir-go", "request")
		return proxywasm.ActionContinue
	}
	proxywasm.OnResponseHeaders = func(uint32, int, bool) proxywasm.Action {
		status, _ := proxywasm.GetHeader(proxywasm.ResponseHeaders, ":status")
		log("on_response_headers %s", status)
		proxywasm.AddHeader(proxywasm.ResponseHeaders, "x-weir-go", "response")
		return proxywasm.ActionContinue
	}
	proxywasm.OnDone = func(uint32) bool {
		log("on_done")
		return true
	}
	proxywasm.OnLog = func(uint32) { log("on_log") }
	proxywasm.OnDelete = func(uint32) { log("on_delete") }
}

// main never runs: the module is a library, a WASI reactor.
func main() {}
