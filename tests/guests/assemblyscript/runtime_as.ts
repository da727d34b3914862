// Uses what AssemblyScript's standard library wants from WASI: the console, clocks, random numbers, the environment. It
// tells the log what it finds when it starts, and the response's headers in each request.
export * from "@gcoredev/proxy-wasm-sdk-as/assembly/proxy";
import {
  Context,
  FilterHeadersStatusValues,
  registerRootContext,
  RootContext,
  stream_context,
} from "@gcoredev/proxy-wasm-sdk-as/assembly";

function variable(name: string): string {
  return process.env.has(name) ? process.env.get(name) : "-";
}

function yes(value: bool): string {
  return value ? "yes" : "no";
}

function findings(): string {
  const before = performance.now();
  const bytes = new Uint8Array(16);
  crypto.getRandomValues(bytes);
  const isRandom = Math.random() != Math.random() && bytes.join(",") != new Uint8Array(16).join(",");
  // Later than 2020.
  const hasClocks = Date.now() > 1577836800000 && performance.now() >= before;
  return "granted=" + variable("GRANTED") + " home=" + variable("HOME") + " random=" + yes(isRandom) + " clocks=" +
    yes(hasClocks) + " files=no";
}

class Root extends RootContext {
  onStart(_size: usize): bool {
    console.log("to the output: " + findings());
    // console.error of this library writes to the output.
    process.stderr.write("to the errors: 42 text\n");
    return true;
  }

  createContext(id: u32): Context {
    return new Runtime(id, this);
  }
}

class Runtime extends Context {
  onRequestHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    // What is allocated goes when the collector finds it.
    const numbers = new Map<string, string>();
    for (let i = 0; i < 1000; i++) numbers.set("number " + i.toString(), "x".repeat(i));
    return numbers.size == 1000 ? FilterHeadersStatusValues.Continue : FilterHeadersStatusValues.StopIteration;
  }

  onResponseHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    stream_context.headers.response.add("x-runtime", findings());
    return FilterHeadersStatusValues.Continue;
  }
}

registerRootContext((id: u32) => new Root(id), "runtime_as");
