package proxywasm

// The callbacks of a guest; one that is nil does nothing and lets the stream go on.
var (
	OnContextCreate   func(context, parent uint32)
	OnVMStart         func(size int) bool
	OnConfigure       func(context uint32, size int) bool
	OnRequestHeaders  func(context uint32, count int, endOfStream bool) Action
	OnRequestBody     func(context uint32, size int, endOfStream bool) Action
	OnResponseHeaders func(context uint32, count int, endOfStream bool) Action
	OnResponseBody    func(context uint32, size int, endOfStream bool) Action
	OnDone            func(context uint32) bool
	OnLog             func(context uint32)
	OnDelete          func(context uint32)
)

//go:wasmexport proxy_abi_version_0_2_1
func proxyABIVersion() {}

//go:wasmexport proxy_on_context_create
func proxyOnContextCreate(context, parent uint32) {
	if OnContextCreate != nil {
		OnContextCreate(context, parent)
	}
}

//go:wasmexport proxy_on_vm_start
func proxyOnVMStart(_, size uint32) uint32 {
	return boolean(OnVMStart == nil || OnVMStart(int(size)))
}

//go:wasmexport proxy_on_configure
func proxyOnConfigure(context, size uint32) uint32 {
	return boolean(OnConfigure == nil || OnConfigure(context, int(size)))
}

//go:wasmexport proxy_on_request_headers
func proxyOnRequestHeaders(context, count, endOfStream uint32) uint32 {
	return stream(OnRequestHeaders, context, count, endOfStream)
}

//go:wasmexport proxy_on_request_body
func proxyOnRequestBody(context, size, endOfStream uint32) uint32 {
	return stream(OnRequestBody, context, size, endOfStream)
}

//go:wasmexport proxy_on_response_headers
func proxyOnResponseHeaders(context, count, endOfStream uint32) uint32 {
	return stream(OnResponseHeaders, context, count, endOfStream)
}

//go:wasmexport proxy_on_response_body
func proxyOnResponseBody(context, size, endOfStream uint32) uint32 {
	return stream(OnResponseBody, context, size, endOfStream)
}

//go:wasmexport proxy_on_done
func proxyOnDone(context uint32) uint32 {
	return boolean(OnDone == nil || OnDone(context))
}

//go:wasmexport proxy_on_log
func proxyOnLog(context uint32) {
	if OnLog != nil {
		OnLog(context)
	}
}

//go:wasmexport proxy_on_delete
func proxyOnDelete(context uint32) {
	if OnDelete != nil {
		OnDelete(context)
	}
}

func boolean(value bool) uint32 {
	if value {
		return 1
	}
	return 0
}

func stream(callback func(uint32, int, bool) Action, context, size, endOfStream uint32) uint32 {
	if callback == nil {
		return uint32(ActionContinue)
	}
	return uint32(callback(context, int(size), endOfStream != 0))
}
