// Adds `x-weir-cpp: request` to requests and `x-weir-cpp: response` to responses, and logs a line in each callback.
#include "proxy_wasm.h"

#include <string>
#include <vector>

namespace {

// Filled by a constructor, so that a host that does not call `_initialize` is noticed.
const std::vector<std::string> name_parts{"add_headers", "cpp"};

void log(const std::string &message) {
  proxy_wasm::log(proxy_wasm::LogLevel::info, name_parts.at(0) + "_" + name_parts.at(1) + ": " + message);
}

}  // namespace

using proxy_wasm::Action;
using proxy_wasm::Buffer;
using proxy_wasm::Map;

PROXY_WASM_EXPORT(proxy_on_context_create)
void proxy_on_context_create(uint32_t context, uint32_t parent) {
  log("on_context_create ctx=" + std::to_string(context) + " parent=" + std::to_string(parent));
}

PROXY_WASM_EXPORT(proxy_on_vm_start)
uint32_t proxy_on_vm_start(uint32_t, uint32_t) {
  log("on_vm_start " + proxy_wasm::buffer(Buffer::vm_configuration).value_or(""));
  return 1;
}

PROXY_WASM_EXPORT(proxy_on_configure)
uint32_t proxy_on_configure(uint32_t, uint32_t) {
  log("on_configure " + proxy_wasm::buffer(Buffer::plugin_configuration).value_or(""));
  return 1;
}

PROXY_WASM_EXPORT(proxy_on_request_headers)
Action proxy_on_request_headers(uint32_t, uint32_t, uint32_t) {
  log("on_request_headers " + proxy_wasm::header(Map::request_headers, ":path").value_or(""));
  proxy_wasm::add_header(Map::request_headers, "x-weir-cpp", "request");
  return Action::resume;
}

PROXY_WASM_EXPORT(proxy_on_response_headers)
Action proxy_on_response_headers(uint32_t, uint32_t, uint32_t) {
  log("on_response_headers " + proxy_wasm::header(Map::response_headers, ":status").value_or(""));
  proxy_wasm::add_header(Map::response_headers, "x-weir-cpp", "response");
  return Action::resume;
}

PROXY_WASM_EXPORT(proxy_on_done)
uint32_t proxy_on_done(uint32_t) {
  log("on_done");
  return 1;
}

PROXY_WASM_EXPORT(proxy_on_log)
void proxy_on_log(uint32_t) { log("on_log"); }

PROXY_WASM_EXPORT(proxy_on_delete)
void proxy_on_delete(uint32_t) { log("on_delete"); }
