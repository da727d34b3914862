// Puts the end of each request off: `on_done` answers no, and the next request of the same instance completes it. The
// log says what happens when, and what path a context still sees.
#include "proxy_wasm.h"

#include <string>

using proxy_wasm::Action;
using proxy_wasm::Map;
using proxy_wasm::Status;

namespace {

// The context that waits for its end; 0 if none does.
uint32_t waiting = 0;

void log(const std::string &what, uint32_t context) {
  const std::string path = proxy_wasm::header(Map::request_headers, ":path").value_or("nothing");
  const std::string line = "deferred_cpp: " + what + " " + std::to_string(context) + " sees " + path;
  proxy_wasm::log(proxy_wasm::LogLevel::info, line);
}

}  // namespace

PROXY_WASM_EXPORT(proxy_on_request_headers)
Action proxy_on_request_headers(uint32_t context, uint32_t, uint32_t) {
  log("begins", context);
  if (waiting != 0 && proxy_wasm::host::proxy_set_effective_context(waiting) == Status::ok) {
    log("completes", waiting);
    if (proxy_wasm::host::proxy_done() != Status::ok || proxy_wasm::host::proxy_done() != Status::not_found) {
      log("cannot complete", waiting);
    }
    waiting = 0;
    proxy_wasm::host::proxy_set_effective_context(context);
  }
  return Action::resume;
}

PROXY_WASM_EXPORT(proxy_on_done)
uint32_t proxy_on_done(uint32_t context) {
  log("defers", context);
  waiting = context;
  return 0;
}

PROXY_WASM_EXPORT(proxy_on_log)
void proxy_on_log(uint32_t context) { log("logs", context); }

PROXY_WASM_EXPORT(proxy_on_delete)
void proxy_on_delete(uint32_t context) { log("goes", context); }
