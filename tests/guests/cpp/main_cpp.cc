// A reactor that has a `main` too, as modules for other hosts are: constructors run first, then `main`, once each. Adds
// `x-main: CONSTRUCTORS MAINS`.
// flags: -Wl,--export=__main_void
#include "proxy_wasm.h"

#include <string>

namespace {

std::string order;

const bool constructed = [] {
  order += "constructor";
  return true;
}();

}  // namespace

int main() {
  order += constructed ? " main" : " too early";
  return 0;
}

PROXY_WASM_EXPORT(proxy_on_response_headers)
proxy_wasm::Action proxy_on_response_headers(uint32_t, uint32_t, uint32_t) {
  proxy_wasm::add_header(proxy_wasm::Map::response_headers, "x-main", order);
  return proxy_wasm::Action::resume;
}
