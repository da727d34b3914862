// Traps in on_request_headers, three functions deep. It is built with debugging information, so that the host can tell
// where; and without optimizations, since those of wasm-opt, which clang calls where it is installed, lose it.
// flags: -O0 -gline-tables-only -ffile-compilation-dir=/weir
#include "proxy_wasm.h"

namespace deep {

struct Diver {
  static void bottom() {
    __builtin_trap();
  }

  static void dive(uint32_t depth) {
    if (depth > 0) {
      dive(depth - 1);
    } else {
      bottom();  // here
    }
  }
};

}  // namespace deep

PROXY_WASM_EXPORT(proxy_on_request_headers)
proxy_wasm::Action proxy_on_request_headers(uint32_t, uint32_t, uint32_t) {
  deep::Diver::dive(1);
  return proxy_wasm::Action::resume;
}
