// A thin binding of the Proxy-Wasm ABI 0.2.1 for the tests' C++ guests, written from the specification
// (proxy-wasm/spec, abi-versions/v0.2.1); of 0.1.0 where PROXY_WASM_ABI_0_1_0 is defined before. What the host offers is in `proxy_wasm::host`, under the ABI's names;
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
#include <utility>
#include <vector>

#define PROXY_WASM_IMPORT(name) extern "C" __attribute__((import_module("env"), import_name(#name)))
#define PROXY_WASM_EXPORT(name) extern "C" __attribute__((export_name(#name)))

// The marker by which the host knows the version; it is never called.
#ifdef PROXY_WASM_ABI_0_1_0
PROXY_WASM_EXPORT(proxy_abi_version_0_1_0) inline void proxy_abi_version_0_1_0() {}
#else
PROXY_WASM_EXPORT(proxy_abi_version_0_2_1) inline void proxy_abi_version_0_2_1() {}
#endif

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

enum class Stream : uint32_t { request = 0, response = 1 };

// The functions of the host that the guests need, as the specification has them.
namespace host {

PROXY_WASM_IMPORT(proxy_log) Status proxy_log(LogLevel level, const char *message, size_t size);
PROXY_WASM_IMPORT(proxy_get_buffer_bytes)
Status proxy_get_buffer_bytes(Buffer buffer, size_t start, size_t max_size, char **data, size_t *size);
PROXY_WASM_IMPORT(proxy_get_header_map_value)
Status proxy_get_header_map_value(Map map, const char *name, size_t name_size, char **data, size_t *size);
PROXY_WASM_IMPORT(proxy_add_header_map_value)
Status proxy_add_header_map_value(Map map, const char *name, size_t name_size, const char *value, size_t size);
PROXY_WASM_IMPORT(proxy_replace_header_map_value)
Status proxy_replace_header_map_value(Map map, const char *name, size_t name_size, const char *value, size_t size);
PROXY_WASM_IMPORT(proxy_remove_header_map_value)
Status proxy_remove_header_map_value(Map map, const char *name, size_t name_size);
PROXY_WASM_IMPORT(proxy_get_header_map_pairs) Status proxy_get_header_map_pairs(Map map, char **data, size_t *size);
PROXY_WASM_IMPORT(proxy_set_buffer_bytes)
Status proxy_set_buffer_bytes(Buffer buffer, size_t start, size_t size, const char *data, size_t data_size);
PROXY_WASM_IMPORT(proxy_send_local_response)
Status proxy_send_local_response(uint32_t status, const char *details, size_t details_size, const char *body,
                                 size_t body_size, const char *headers, size_t headers_size, int32_t grpc_status);
PROXY_WASM_IMPORT(proxy_get_property)
Status proxy_get_property(const char *path, size_t path_size, char **data, size_t *size);
PROXY_WASM_IMPORT(proxy_set_property)
Status proxy_set_property(const char *path, size_t path_size, const char *value, size_t size);
PROXY_WASM_IMPORT(proxy_set_effective_context) Status proxy_set_effective_context(uint32_t context);
PROXY_WASM_IMPORT(proxy_done) Status proxy_done();
#ifdef PROXY_WASM_ABI_0_1_0
PROXY_WASM_IMPORT(proxy_get_configuration) Status proxy_get_configuration(char **data, size_t *size);
PROXY_WASM_IMPORT(proxy_continue_request) Status proxy_continue_request();
PROXY_WASM_IMPORT(proxy_continue_response) Status proxy_continue_response();
PROXY_WASM_IMPORT(proxy_clear_route_cache) Status proxy_clear_route_cache();
#else
PROXY_WASM_IMPORT(proxy_continue_stream) Status proxy_continue_stream(Stream stream);
#endif

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

// Sets a header, whether or not there is one of that name.
inline Status replace_header(Map map, std::string_view name, std::string_view value) {
  return host::proxy_replace_header_map_value(map, name.data(), name.size(), value.data(), value.size());
}

// Removes every header of that name.
inline Status remove_header(Map map, std::string_view name) {
  return host::proxy_remove_header_map_value(map, name.data(), name.size());
}

using Pairs = std::vector<std::pair<std::string, std::string>>;

// A list as it crosses the boundary: the number of pairs, all sizes, then each name and value with a NUL behind it.
inline std::string serialize(const Pairs &pairs) {
  std::string text;
  const auto number = [&text](size_t value) {
    for (int shift = 0; shift < 32; shift += 8) {
      text.push_back(static_cast<char>(value >> shift & 0xff));
    }
  };
  number(pairs.size());
  for (const auto &[name, value] : pairs) {
    number(name.size());
    number(value.size());
  }
  for (const auto &[name, value] : pairs) {
    text.append(name).push_back('\0');
    text.append(value).push_back('\0');
  }
  return text;
}

inline Pairs parse_pairs(std::string_view text) {
  const auto number = [text](size_t at) {
    size_t value = 0;
    for (size_t byte = 0; byte < 4 && at + byte < text.size(); ++byte) {
      value |= static_cast<size_t>(static_cast<unsigned char>(text[at + byte])) << (8 * byte);
    }
    return value;
  };
  Pairs pairs;
  const size_t count = text.empty() ? 0 : number(0);
  size_t at = 4 + 8 * count;
  for (size_t pair = 0; pair < count; ++pair) {
    const size_t name_size = number(4 + 8 * pair);
    const size_t value_size = number(8 + 8 * pair);
    pairs.emplace_back(text.substr(at, name_size), text.substr(at + name_size + 1, value_size));
    at += name_size + value_size + 2;
  }
  return pairs;
}

// Every header, in order.
inline Pairs headers(Map map) {
  char *data = nullptr;
  size_t size = 0;
  if (host::proxy_get_header_map_pairs(map, &data, &size) != Status::ok) {
    return {};
  }
  return parse_pairs(take(data, size));
}

// Replaces `size` bytes of a buffer from `start` on.
inline Status set_buffer(Buffer which, size_t start, size_t size, std::string_view bytes) {
  return host::proxy_set_buffer_bytes(which, start, size, bytes.data(), bytes.size());
}

// Answers the request.
inline Status respond(uint32_t status, std::string_view details, const Pairs &headers, std::string_view body) {
  const std::string list = serialize(headers);
  return host::proxy_send_local_response(status, details.data(), details.size(), body.data(), body.size(),
                                         list.data(), list.size(), -1);
}

// A property, or nothing if there is none; NULs separate the segments of its path.
inline std::optional<std::string> property(std::string_view path) {
  char *data = nullptr;
  size_t size = 0;
  if (host::proxy_get_property(path.data(), path.size(), &data, &size) != Status::ok) {
    return std::nullopt;
  }
  return take(data, size);
}

// Sets a property.
inline Status set_property(std::string_view path, std::string_view value) {
  return host::proxy_set_property(path.data(), path.size(), value.data(), value.size());
}

}  // namespace proxy_wasm
