// Uses what the standard libraries of C and C++ want from WASI: streams, clocks, random numbers, the environment, and no
// files. It tells the log what it finds when it starts, and the response's headers in each request.
#include "proxy_wasm.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <random>
#include <string>

using proxy_wasm::Action;
using proxy_wasm::Map;

namespace {

std::string variable(const char *name) {
  const char *value = std::getenv(name);
  return value == nullptr ? "-" : value;
}

// Two numbers from the system that differ: the chance of 2^-64 that they do not is taken.
bool is_random() {
  std::random_device device;
  const uint64_t first = static_cast<uint64_t>(device()) << 32 | device();
  const uint64_t second = static_cast<uint64_t>(device()) << 32 | device();
  return first != second;
}

// It is later than 2020, and the other clock does not go back.
bool has_clocks() {
  const auto before = std::chrono::steady_clock::now();
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return now > std::chrono::years(50) && std::chrono::steady_clock::now() >= before;
}

std::string findings() {
  std::FILE *file = std::fopen("/etc/passwd", "r");
  if (file != nullptr) {
    std::fclose(file);
  }
  return "granted=" + variable("GRANTED") + " home=" + variable("HOME") + " random=" + (is_random() ? "yes" : "no") +
         " clocks=" + (has_clocks() ? "yes" : "no") + " files=" + (file == nullptr ? "no" : "yes");
}

}  // namespace

PROXY_WASM_EXPORT(proxy_on_vm_start)
uint32_t proxy_on_vm_start(uint32_t, uint32_t) {
  std::printf("to the output: %s\n", findings().c_str());
  std::fflush(stdout);
  std::fprintf(stderr, "to the errors: %d %s\n", 42, "text");
  return 1;
}

PROXY_WASM_EXPORT(proxy_on_request_headers)
Action proxy_on_request_headers(uint32_t, uint32_t, uint32_t) {
  // What a container allocates goes when it does.
  std::map<std::string, std::string> numbers;
  for (int number = 0; number < 1000; ++number) {
    numbers["number " + std::to_string(number)] = std::string(static_cast<size_t>(number), 'x');
  }
  return numbers.size() == 1000 ? Action::resume : Action::pause;
}

PROXY_WASM_EXPORT(proxy_on_response_headers)
Action proxy_on_response_headers(uint32_t, uint32_t, uint32_t) {
  proxy_wasm::add_header(Map::response_headers, "x-runtime", findings());
  return Action::resume;
}
