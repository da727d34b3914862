// Works for some time in on_request_headers, in a function whose name says so. Its functions have the names that the
// compiler gives them: the linker would write those of C++ in their readable form.
// flags: -O1 -fno-inline -Wl,--no-demangle
#include "proxy_wasm.h"

namespace bakery {

struct Oven {
  static uint32_t bake(uint32_t rounds) {
    uint32_t heat = rounds;
    for (uint32_t round = 0; round < rounds; ++round) {
      heat = heat * 1664525 + 1013904223;
      // What is volatile is not left out.
      volatile uint32_t crust = heat;
      heat ^= crust >> 16;
    }
    return heat;
  }
};

}  // namespace bakery

PROXY_WASM_EXPORT(proxy_on_request_headers)
proxy_wasm::Action proxy_on_request_headers(uint32_t, uint32_t, uint32_t) {
  bakery::Oven::bake(300000);
  return proxy_wasm::Action::resume;
}
