// Replaces a word in the bodies of requests and responses: its configuration is `OLD=NEW`. A body is held until it is
// whole, and set as a whole.
package main

import (
	"strings"

	"weir.test/guests/proxywasm"
)

var oldWord, newWord string

func replace(buffer proxywasm.Buffer, endOfStream bool) proxywasm.Action {
	if !endOfStream {
		return proxywasm.ActionPause
	}
	body, _ := proxywasm.GetBuffer(buffer)
	if strings.Contains(body, oldWord) {
		proxywasm.SetBuffer(buffer, 0, uint32(len(body)), strings.ReplaceAll(body, oldWord, newWord))
	}
	return proxywasm.ActionContinue
}

func init() {
	proxywasm.OnConfigure = func(uint32, int) bool {
		text, _ := proxywasm.GetBuffer(proxywasm.PluginConfiguration)
		var found bool
		oldWord, newWord, found = strings.Cut(text, "=")
		return found && oldWord != ""
	}
	proxywasm.OnRequestBody = func(_ uint32, _ int, endOfStream bool) proxywasm.Action {
		return replace(proxywasm.RequestBody, endOfStream)
	}
	proxywasm.OnResponseBody = func(_ uint32, _ int, endOfStream bool) proxywasm.Action {
		return replace(proxywasm.ResponseBody, endOfStream)
	}
}

// main never runs: the module is a library, a WASI reactor.
func main() {}
