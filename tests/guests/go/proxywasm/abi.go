// Package proxywasm is a thin binding of the Proxy-Wasm ABI 0.2.1 for the tests' Go guests, written from the
// specification (proxy-wasm/spec, abi-versions/v0.2.1).
//
// A guest is a command built with -buildmode=c-shared, which makes it a WASI reactor. It registers its callbacks in an
// init function, since main never runs:
//
//	func init() { proxywasm.OnRequestHeaders = func(context uint32, count int, endOfStream bool) proxywasm.Action { … } }
package proxywasm

import "unsafe"

// LogLevel is the severity of a line in the host's log.
type LogLevel uint32

// The levels of proxy_log.
const (
	LogTrace LogLevel = iota
	LogDebug
	LogInfo
	LogWarn
	LogError
	LogCritical
)

// Status is what the host's functions answer.
type Status uint32

// The statuses that a guest meets.
const (
	StatusOK              Status = 0
	StatusNotFound        Status = 1
	StatusBadArgument     Status = 2
	StatusInternalFailure Status = 10
)

// Action is what a callback answers.
type Action uint32

// Whether the stream goes on after a callback.
const (
	ActionContinue Action = 0
	ActionPause    Action = 1
)

// Buffer names one of the host's buffers.
type Buffer uint32

// The buffers that the guests read.
const (
	RequestBody         Buffer = 0
	ResponseBody        Buffer = 1
	VMConfiguration     Buffer = 6
	PluginConfiguration Buffer = 7
)

// Map names one of the host's header maps.
type Map uint32

// The maps of a request and its response.
const (
	RequestHeaders   Map = 0
	RequestTrailers  Map = 1
	ResponseHeaders  Map = 2
	ResponseTrailers Map = 3
)

// Stream names a direction of a request.
type Stream uint32

// The directions of HTTP.
const (
	HTTPRequest  Stream = 0
	HTTPResponse Stream = 1
)

//go:wasmimport env proxy_log
func proxyLog(level LogLevel, message *byte, size uint32) Status

//go:wasmimport env proxy_get_buffer_bytes
func proxyGetBufferBytes(buffer Buffer, start, maxSize uint32, data unsafe.Pointer, size *uint32) Status

//go:wasmimport env proxy_get_header_map_value
func proxyGetHeaderMapValue(m Map, name *byte, nameSize uint32, data unsafe.Pointer, size *uint32) Status

//go:wasmimport env proxy_add_header_map_value
func proxyAddHeaderMapValue(m Map, name *byte, nameSize uint32, value *byte, valueSize uint32) Status

//go:wasmimport env proxy_replace_header_map_value
func proxyReplaceHeaderMapValue(m Map, name *byte, nameSize uint32, value *byte, valueSize uint32) Status

//go:wasmimport env proxy_remove_header_map_value
func proxyRemoveHeaderMapValue(m Map, name *byte, nameSize uint32) Status

//go:wasmimport env proxy_get_header_map_pairs
func proxyGetHeaderMapPairs(m Map, data unsafe.Pointer, size *uint32) Status

//go:wasmimport env proxy_set_buffer_bytes
func proxySetBufferBytes(buffer Buffer, start, size uint32, data *byte, dataSize uint32) Status

//go:wasmimport env proxy_send_local_response
func proxySendLocalResponse(status uint32, details *byte, detailsSize uint32, body *byte, bodySize uint32,
	headers *byte, headersSize uint32, grpcStatus int32) Status

//go:wasmimport env proxy_get_property
func proxyGetProperty(path *byte, pathSize uint32, data unsafe.Pointer, size *uint32) Status

//go:wasmimport env proxy_set_property
func proxySetProperty(path *byte, pathSize uint32, value *byte, valueSize uint32) Status

//go:wasmimport env proxy_continue_stream
func proxyContinueStream(stream Stream) Status

//go:wasmimport env proxy_set_effective_context
func proxySetEffectiveContext(context uint32) Status

//go:wasmimport env proxy_done
func proxyDone() Status

// allocated keeps what the host writes into from being collected, until the guest takes it. The keys are addresses.
var allocated = map[uint32][]byte{}

//go:wasmexport proxy_on_memory_allocate
func proxyOnMemoryAllocate(size uint32) uint32 {
	memory := make([]byte, max(size, 1))
	address := uint32(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
	allocated[address] = memory
	return address
}

// take hands over what the host wrote at address; an empty value comes without memory.
func take(address, size uint32) string {
	memory := allocated[address]
	delete(allocated, address)
	return string(memory[:min(int(size), len(memory))])
}

// Log writes a line to the host's log.
func Log(level LogLevel, message string) {
	proxyLog(level, unsafe.StringData(message), uint32(len(message)))
}

// GetBuffer reads a whole buffer; false if the host has none now.
func GetBuffer(buffer Buffer) (string, bool) {
	var address, size uint32
	if proxyGetBufferBytes(buffer, 0, ^uint32(0), unsafe.Pointer(&address), &size) != StatusOK {
		return "", false
	}
	return take(address, size), true
}

// GetHeader reads the value of a header; false if there is none of that name.
func GetHeader(m Map, name string) (string, bool) {
	var address, size uint32
	status := proxyGetHeaderMapValue(m, unsafe.StringData(name), uint32(len(name)), unsafe.Pointer(&address), &size)
	if status != StatusOK {
		return "", false
	}
	return take(address, size), true
}

// AddHeader adds a header, whether or not there is one of that name.
func AddHeader(m Map, name, value string) Status {
	return proxyAddHeaderMapValue(m, unsafe.StringData(name), uint32(len(name)), unsafe.StringData(value), uint32(len(value)))
}

// ReplaceHeader sets a header, whether or not there is one of that name.
func ReplaceHeader(m Map, name, value string) Status {
	return proxyReplaceHeaderMapValue(m, unsafe.StringData(name), uint32(len(name)), unsafe.StringData(value), uint32(len(value)))
}

// RemoveHeader removes every header of that name.
func RemoveHeader(m Map, name string) Status {
	return proxyRemoveHeaderMapValue(m, unsafe.StringData(name), uint32(len(name)))
}

// GetHeaders reads every header, in order.
func GetHeaders(m Map) []Pair {
	var address, size uint32
	if proxyGetHeaderMapPairs(m, unsafe.Pointer(&address), &size) != StatusOK {
		return nil
	}
	return parsePairs(take(address, size))
}

// SetBuffer replaces size bytes of a buffer from start on.
func SetBuffer(buffer Buffer, start, size uint32, bytes string) Status {
	return proxySetBufferBytes(buffer, start, size, unsafe.StringData(bytes), uint32(len(bytes)))
}

// Respond answers the request.
func Respond(status uint32, details string, headers []Pair, body string) Status {
	list := serialize(headers)
	return proxySendLocalResponse(status, unsafe.StringData(details), uint32(len(details)), unsafe.StringData(body),
		uint32(len(body)), unsafe.StringData(list), uint32(len(list)), -1)
}

// GetProperty reads a property; false if there is none. The segments of its path are separated by dots or NULs.
func GetProperty(path string) (string, bool) {
	var address, size uint32
	if proxyGetProperty(unsafe.StringData(path), uint32(len(path)), unsafe.Pointer(&address), &size) != StatusOK {
		return "", false
	}
	return take(address, size), true
}

// SetProperty sets a property.
func SetProperty(path, value string) Status {
	return proxySetProperty(unsafe.StringData(path), uint32(len(path)), unsafe.StringData(value), uint32(len(value)))
}

// Continue lets a stream go on that is held.
func Continue(stream Stream) Status {
	return proxyContinueStream(stream)
}

// SetEffectiveContext chooses the context that the functions here are about.
func SetEffectiveContext(context uint32) Status {
	return proxySetEffectiveContext(context)
}

// Done completes a context whose OnDone has answered false.
func Done() Status {
	return proxyDone()
}
