// A filter of ABI 0.1.0: headers callbacks without end_of_stream, its configuration from a function of its own, headers
// that are not there read as empty, streams that are resumed by name. It pauses each request and resumes it at once.
#define PROXY_WASM_ABI_0_1_0
#include "proxy_wasm.h"

#include <string>

using proxy_wasm::Action;
using proxy_wasm::Map;
using proxy_wasm::Status;

namespace {

std::string vm_configuration;
std::string plugin_configuration;

std::string configuration() {
  char *data = nullptr;
  size_t size = 0;
  const Status status = proxy_wasm::host::proxy_get_configuration(&data, &size);
  return status == Status::ok ? proxy_wasm::take(data, size) : "failed";
}

}  // namespace

PROXY_WASM_EXPORT(proxy_on_vm_start)
uint32_t proxy_on_vm_start(uint32_t, uint32_t) {
  vm_configuration = configuration();
  return 1;
}

PROXY_WASM_EXPORT(proxy_on_configure)
uint32_t proxy_on_configure(uint32_t, uint32_t) {
  plugin_configuration = configuration();
  return 1;
}

PROXY_WASM_EXPORT(proxy_on_request_headers)
Action proxy_on_request_headers(uint32_t, uint32_t) {
  // Not optional: in this version what is not there is empty.
  const std::string absent = proxy_wasm::header(Map::request_headers, "x-absent").value_or("an error");
  proxy_wasm::add_header(Map::request_headers, "x-legacy", "[" + absent + "]");
  proxy_wasm::host::proxy_clear_route_cache();
  proxy_wasm::host::proxy_continue_request();
  return Action::pause;
}

PROXY_WASM_EXPORT(proxy_on_response_headers)
Action proxy_on_response_headers(uint32_t, uint32_t) {
  proxy_wasm::add_header(Map::response_headers, "x-legacy", vm_configuration + " " + plugin_configuration);
  proxy_wasm::host::proxy_continue_response();
  return Action::pause;
}
