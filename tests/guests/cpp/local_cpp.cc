// Answers requests for /local, and puts a response of its own in the place of one that has the header `x-replace`.
#include "proxy_wasm.h"

using proxy_wasm::Action;
using proxy_wasm::Map;

PROXY_WASM_EXPORT(proxy_on_request_headers)
Action proxy_on_request_headers(uint32_t, uint32_t, uint32_t) {
  if (proxy_wasm::header(Map::request_headers, ":path") != "/local") {
    return Action::resume;
  }
  proxy_wasm::respond(403, "local_cpp has answered", {{"x-by", "local_cpp"}, {"x-by", "twice"}}, "denied by local_cpp");
  return Action::pause;
}

PROXY_WASM_EXPORT(proxy_on_response_headers)
Action proxy_on_response_headers(uint32_t, uint32_t, uint32_t) {
  if (!proxy_wasm::header(Map::response_headers, "x-replace")) {
    return Action::resume;
  }
  proxy_wasm::respond(503, "", {}, "replaced by local_cpp");
  return Action::pause;
}
