// Tells in the response's headers what it finds in properties and in the list of the request's headers, and replaces and
// removes headers on the way:
//
//	x-seen     PATH PROTOCOL CODE OWN VARIABLE NONE: a string, another, a number, what it has set itself, a variable of
//	           the proxy's, and what there is under a path that leads nowhere
//	x-names    the names of the request's headers that begin with `x-`, in order
package main

import (
	"encoding/binary"
	"strconv"
	"strings"

	"weir.test/guests/proxywasm"
)

var names []string

// text reads a property; its path has dots here.
func text(path string) string {
	if value, found := proxywasm.GetProperty(path); found {
		return value
	}
	return "-"
}

func number(path string) string {
	value, _ := proxywasm.GetProperty(path)
	if len(value) != 8 {
		return "-1"
	}
	return strconv.FormatUint(binary.LittleEndian.Uint64([]byte(value)), 10)
}

func init() {
	proxywasm.OnRequestHeaders = func(uint32, int, bool) proxywasm.Action {
		names = nil
		for _, pair := range proxywasm.GetHeaders(proxywasm.RequestHeaders) {
			if strings.HasPrefix(pair.Name, "x-") {
				names = append(names, pair.Name+"="+pair.Value)
			}
		}
		proxywasm.ReplaceHeader(proxywasm.RequestHeaders, "x-replaced", "new")
		proxywasm.RemoveHeader(proxywasm.RequestHeaders, "x-removed")
		proxywasm.SetProperty("my.own", "mine")
		return proxywasm.ActionContinue
	}
	proxywasm.OnResponseHeaders = func(uint32, int, bool) proxywasm.Action {
		seen := []string{
			text("request.path"), text("request.protocol"), number("response.code"), text("my.own"),
			text("ngx.request_method"), text("no.such"),
		}
		proxywasm.AddHeader(proxywasm.ResponseHeaders, "x-seen", strings.Join(seen, " "))
		proxywasm.AddHeader(proxywasm.ResponseHeaders, "x-names", strings.Join(names, ","))
		return proxywasm.ActionContinue
	}
}

// main never runs: the module is a library, a WASI reactor.
func main() {}
