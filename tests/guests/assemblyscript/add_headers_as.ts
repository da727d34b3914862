// Adds `x-weir-as: request` to requests and `x-weir-as: response` to responses, and logs a line in each callback.
//
// The SDK writes its log lines to the standard output, as `[INFO]: …`, so they reach the host through WASI's fd_write.
export * from "@gcoredev/proxy-wasm-sdk-as/assembly/proxy";
import {
  BufferTypeValues,
  Context,
  FilterHeadersStatusValues,
  get_buffer_bytes,
  log,
  LogLevelValues,
  registerRootContext,
  RootContext,
  stream_context,
} from "@gcoredev/proxy-wasm-sdk-as/assembly";

function info(message: string): void {
  log(LogLevelValues.info, "add_headers_as: " + message);
}

class Root extends RootContext {
  onStart(size: usize): bool {
    const text = size == 0 ? "" : String.UTF8.decode(get_buffer_bytes(BufferTypeValues.VmConfiguration, 0, <u32>size));
    info("on_vm_start " + text);
    return super.onStart(size);
  }

  onConfigure(size: u32): bool {
    const accepted = super.onConfigure(size);
    info("on_configure " + this.getConfiguration());
    return accepted;
  }

  createContext(id: u32): Context {
    return new AddHeaders(id, this);
  }
}

class AddHeaders extends Context {
  constructor(id: u32, root: Root) {
    super(id, root);
    info("on_context_create ctx=" + id.toString());
  }

  onRequestHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    info("on_request_headers " + stream_context.headers.request.get(":path"));
    stream_context.headers.request.add("x-weir-as", "request");
    return FilterHeadersStatusValues.Continue;
  }

  onResponseHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    info("on_response_headers " + stream_context.headers.response.get(":status"));
    stream_context.headers.response.add("x-weir-as", "response");
    return FilterHeadersStatusValues.Continue;
  }

  onDone(): bool {
    info("on_done");
    return super.onDone();
  }

  onLog(): void {
    info("on_log");
  }
}

registerRootContext((id: u32) => new Root(id), "add_headers_as");
