// A module that is built as a command: its `main` runs when it starts, and its callbacks afterwards. Adds
// `x-command: COUNT`, how often `main` has run, and what it was given.
// flags: -mexec-model=command
#include "proxy_wasm.h"

#include <string>

namespace {

int runs = 0;
int arguments = -1;
// A command destroys its objects when `main` has returned, so this one is never destroyed.
std::string *name = nullptr;

}  // namespace

int main(int count, char **) {
  ++runs;
  arguments = count;
  name = new std::string("of main");
  return 0;
}

PROXY_WASM_EXPORT(proxy_on_response_headers)
proxy_wasm::Action proxy_on_response_headers(uint32_t, uint32_t, uint32_t) {
  const std::string text = std::to_string(runs) + " " + std::to_string(arguments) + " " + *name;
  proxy_wasm::add_header(proxy_wasm::Map::response_headers, "x-command", text);
  return proxy_wasm::Action::resume;
}
