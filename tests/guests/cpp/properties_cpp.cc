// Tells in the response's headers what it finds in properties and in the list of the request's headers, and replaces and
// removes headers on the way:
//
//   x-seen     PATH PROTOCOL CODE OWN VARIABLE NONE: a string, another, a number, what it has set itself, a variable of
//              the proxy's, and what there is under a path that leads nowhere
//   x-names    the names of the request's headers that begin with `x-`, in order
#include "proxy_wasm.h"

#include <cstring>
#include <string>

using proxy_wasm::Action;
using proxy_wasm::Map;
using namespace std::string_view_literals;

namespace {

std::string names;

std::string text(std::string_view path) { return proxy_wasm::property(path).value_or("-"); }

std::string number(std::string_view path) {
  const std::string bytes = proxy_wasm::property(path).value_or("");
  int64_t value = -1;
  if (bytes.size() == sizeof value) {
    std::memcpy(&value, bytes.data(), sizeof value);
  }
  return std::to_string(value);
}

}  // namespace

PROXY_WASM_EXPORT(proxy_on_request_headers)
Action proxy_on_request_headers(uint32_t, uint32_t, uint32_t) {
  names.clear();
  for (const auto &[name, value] : proxy_wasm::headers(Map::request_headers)) {
    if (name.starts_with("x-")) {
      names += (names.empty() ? "" : ",") + name + "=" + value;
    }
  }
  proxy_wasm::replace_header(Map::request_headers, "x-replaced", "new");
  proxy_wasm::remove_header(Map::request_headers, "x-removed");
  proxy_wasm::set_property("my\0own"sv, "mine");
  return Action::resume;
}

PROXY_WASM_EXPORT(proxy_on_response_headers)
Action proxy_on_response_headers(uint32_t, uint32_t, uint32_t) {
  const std::string seen = text("request\0path"sv) + " " + text("request\0protocol"sv) + " " +
                           number("response\0code"sv) + " " + text("my\0own"sv) + " " + text("ngx\0request_method"sv) +
                           " " + text("no\0such"sv);
  proxy_wasm::add_header(Map::response_headers, "x-seen", seen);
  proxy_wasm::add_header(Map::response_headers, "x-names", names);
  return Action::resume;
}
