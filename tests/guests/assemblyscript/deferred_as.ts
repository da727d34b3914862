// Puts the end of each request off: onDone answers no, and the next request of the same instance completes it. The log
// says what happens when, and what path a context still sees.
export * from "@gcoredev/proxy-wasm-sdk-as/assembly/proxy";
import {
  Context,
  FilterHeadersStatusValues,
  log,
  LogLevelValues,
  proxy_set_effective_context,
  registerRootContext,
  RootContext,
  stream_context,
  WasmResultValues,
} from "@gcoredev/proxy-wasm-sdk-as/assembly";
import { done } from "@gcoredev/proxy-wasm-sdk-as/assembly/runtime";

function say(what: string, context: u32): void {
  const path = stream_context.headers.request.get(":path");
  log(LogLevelValues.info, "deferred_as: " + what + " " + context.toString() + " sees " + (path == "" ? "nothing" : path));
}

class Root extends RootContext {
  // The context that waits for its end; 0 if none does.
  waiting: u32 = 0;

  createContext(id: u32): Context {
    return new Deferred(id, this);
  }
}

class Deferred extends Context {
  root: Root;

  constructor(id: u32, root: Root) {
    super(id, root);
    this.root = root;
  }

  onRequestHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    say("begins", this.context_id);
    const waiting = this.root.waiting;
    if (waiting != 0 && proxy_set_effective_context(waiting) == WasmResultValues.Ok) {
      say("completes", waiting);
      if (done() != WasmResultValues.Ok || done() != WasmResultValues.NotFound) say("cannot complete", waiting);
      this.root.waiting = 0;
      proxy_set_effective_context(this.context_id);
    }
    return FilterHeadersStatusValues.Continue;
  }

  onDone(): bool {
    say("defers", this.context_id);
    this.root.waiting = this.context_id;
    return false;
  }

  onLog(): void {
    say("logs", this.context_id);
  }

  onDelete(): void {
    say("goes", this.context_id);
  }
}

registerRootContext((id: u32) => new Root(id), "deferred_as");
