// Answers requests for /local, and puts a response of its own in the place of one that has the header `x-replace`.
export * from "@gcoredev/proxy-wasm-sdk-as/assembly/proxy";
import {
  Context,
  FilterHeadersStatusValues,
  makeHeaderPair,
  registerRootContext,
  RootContext,
  send_http_response,
  stream_context,
} from "@gcoredev/proxy-wasm-sdk-as/assembly";

class Root extends RootContext {
  createContext(id: u32): Context {
    return new Local(id, this);
  }
}

class Local extends Context {
  onRequestHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    if (stream_context.headers.request.get(":path") != "/local") return FilterHeadersStatusValues.Continue;
    const headers = [makeHeaderPair("x-by", "local_as"), makeHeaderPair("x-by", "twice")];
    send_http_response(403, "local_as has answered", String.UTF8.encode("denied by local_as"), headers);
    return FilterHeadersStatusValues.StopIteration;
  }

  onResponseHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    if (stream_context.headers.response.get("x-replace") == "") return FilterHeadersStatusValues.Continue;
    send_http_response(503, "", String.UTF8.encode("replaced by local_as"), []);
    return FilterHeadersStatusValues.StopIteration;
  }
}

registerRootContext((id: u32) => new Root(id), "local_as");
