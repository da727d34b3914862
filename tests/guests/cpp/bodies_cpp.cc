// Replaces a word in the bodies of requests and responses: its configuration is `OLD=NEW`. A body is held until it is
// whole, and set as a whole.
#include "proxy_wasm.h"

#include <string>

using proxy_wasm::Action;
using proxy_wasm::Buffer;

namespace {

std::string old_word;
std::string new_word;

Action replace(Buffer which, bool end_of_stream) {
  if (!end_of_stream) {
    return Action::pause;
  }
  std::string body = proxy_wasm::buffer(which).value_or("");
  const size_t size = body.size();
  bool found = false;
  for (size_t at = body.find(old_word); at != std::string::npos; at = body.find(old_word, at + new_word.size())) {
    body.replace(at, old_word.size(), new_word);
    found = true;
  }
  if (found) {
    proxy_wasm::set_buffer(which, 0, size, body);
  }
  return Action::resume;
}

}  // namespace

PROXY_WASM_EXPORT(proxy_on_configure)
uint32_t proxy_on_configure(uint32_t, uint32_t) {
  const std::string text = proxy_wasm::buffer(Buffer::plugin_configuration).value_or("");
  const size_t sign = text.find('=');
  if (sign == std::string::npos || sign == 0) {
    return 0;
  }
  old_word = text.substr(0, sign);
  new_word = text.substr(sign + 1);
  return 1;
}

PROXY_WASM_EXPORT(proxy_on_request_body)
Action proxy_on_request_body(uint32_t, uint32_t, uint32_t end_of_stream) {
  return replace(Buffer::request_body, end_of_stream != 0);
}

PROXY_WASM_EXPORT(proxy_on_response_body)
Action proxy_on_response_body(uint32_t, uint32_t, uint32_t end_of_stream) {
  return replace(Buffer::response_body, end_of_stream != 0);
}
