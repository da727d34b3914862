// A thin binding of the Proxy-Wasm ABI 0.2.1 for the tests' C++ guests, written from the specification
// (proxy-wasm/spec, abi-versions/v0.2.1). What the host offers is in `proxy_wasm::host`, under the ABI's names;
// the functions around it are what the guests call. A guest defines its callbacks itself:
//
//     PROXY_WASM_EXPORT(proxy_on_request_headers)
//     uint32_t proxy_on_request_headers(uint32_t context, uint32_t count, uint32_t end_of_stream) { … }
//
// and is linked as a WASI reactor that exports `malloc`, through which the host hands it its data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#define PROXY_WASM_IMPORT(name) extern "C" __attribute__((import_module("env"), import_name(#name)))
#define PROXY_WASM_EXPORT(name) extern "C" __attribute__((export_name(#name)))

// The marker by which the host knows the version; it is never called.
PROXY_WASM_EXPORT(proxy_abi_version_0_2_1) inline void proxy_abi_version_0_2_1() {}

namespace proxy_wasm {

enum class LogLevel : uint32_t { trace, debug, info, warn, error, critical };

enum class Status : uint32_t {
  ok = 0,
  not_found = 1,
  bad_argument = 2,
  serialization_failure = 3,
  parse_failure = 4,
  invalid_memory_access = 6,
  empty = 7,
  cas_mismatch = 8,
  internal_failure = 10,
  unimplemented = 12,
};

enum class Action : uint32_t { resume = 0, pause = 1 };

enum class Buffer : uint32_t {
  request_body = 0,
  response_body = 1,
  vm_configuration = 6,
  plugin_configuration = 7,
};

enum class Map : uint32_t {
  request_headers = 0,
  request_trailers = 1,
  response_headers = 2,
  response_trailers = 3,
};

// The functions of the host that the guests need, as the specification has them.
namespace host {

PROXY_WASM_IMPORT(proxy_log) Status proxy_log(LogLevel level, const char *message, size_t size);
PROXY_WASM_IMPORT(proxy_get_buffer_bytes)
Status proxy_get_buffer_bytes(Buffer buffer, size_t start, size_t max_size, char **data, size_t *size);
PROXY_WASM_IMPORT(proxy_get_header_map_value)
Status proxy_get_header_map_value(Map map, const char *name, size_t name_size, char **data, size_t *size);
PROXY_WASM_IMPORT(proxy_add_header_map_value)
Status proxy_add_header_map_value(Map map, const char *name, size_t name_size, const char *value, size_t size);

}  // namespace host

// A value that the host wrote into memory it got from `malloc`; empty values come without memory.
inline std::string take(char *data, size_t size) {
  const std::unique_ptr<char, decltype(&std::free)> owner(data, &std::free);
  return data == nullptr ? std::string() : std::string(data, size);
}

// Writes one line to the host's log.
inline void log(LogLevel level, std::string_view message) {
  host::proxy_log(level, message.data(), message.size());
}

// The whole of a buffer, or nothing if the host has none now.
inline std::optional<std::string> buffer(Buffer which) {
  char *data = nullptr;
  size_t size = 0;
  const auto all = std::numeric_limits<size_t>::max();
  if (host::proxy_get_buffer_bytes(which, 0, all, &data, &size) != Status::ok) {
    return std::nullopt;
  }
  return take(data, size);
}

// The value of a header, or nothing if it is not there.
inline std::optional<std::string> header(Map map, std::string_view name) {
  char *data = nullptr;
  size_t size = 0;
  if (host::proxy_get_header_map_value(map, name.data(), name.size(), &data, &size) != Status::ok) {
    return std::nullopt;
  }
  return take(data, size);
}

// Adds a header, whether or not there is one of that name.
inline Status add_header(Map map, std::string_view name, std::string_view value) {
  return host::proxy_add_header_map_value(map, name.data(), name.size(), value.data(), value.size());
}

}  // namespace proxy_wasm
