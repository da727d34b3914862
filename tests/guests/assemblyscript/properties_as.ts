// Tells in the response's headers what it finds in properties and in the list of the request's headers, and replaces and
// removes headers on the way:
//
//   x-seen     PATH PROTOCOL CODE OWN VARIABLE NONE: a string, another, a number, what it has set itself, a variable of
//              the proxy's, and what there is under a path that leads nowhere
//   x-names    the names of the request's headers that begin with `x-`, in order
export * from "@gcoredev/proxy-wasm-sdk-as/assembly/proxy";
import {
  Context,
  FilterHeadersStatusValues,
  get_property,
  registerRootContext,
  RootContext,
  set_property,
  stream_context,
} from "@gcoredev/proxy-wasm-sdk-as/assembly";

function text(path: string): string {
  const value = get_property(path);
  return value.byteLength == 0 ? "-" : String.UTF8.decode(value);
}

function number(path: string): string {
  const value = get_property(path);
  return value.byteLength == 8 ? new DataView(value).getInt64(0, true).toString() : "-1";
}

class Root extends RootContext {
  createContext(id: u32): Context {
    return new Properties(id, this);
  }
}

class Properties extends Context {
  names: string[] = [];

  onRequestHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    const pairs = stream_context.headers.request.get_headers();
    for (let i = 0; i < pairs.length; i++) {
      const name = String.UTF8.decode(pairs[i].key);
      if (name.startsWith("x-")) this.names.push(name + "=" + String.UTF8.decode(pairs[i].value));
    }
    stream_context.headers.request.replace("x-replaced", "new");
    stream_context.headers.request.remove("x-removed");
    set_property("my\0own", String.UTF8.encode("mine"));
    return FilterHeadersStatusValues.Continue;
  }

  onResponseHeaders(_count: u32, _endOfStream: bool): FilterHeadersStatusValues {
    const seen = [
      text("request\0path"),
      text("request\0protocol"),
      number("response\0code"),
      text("my\0own"),
      text("ngx\0request_method"),
      text("no\0such"),
    ];
    stream_context.headers.response.add("x-seen", seen.join(" "));
    stream_context.headers.response.add("x-names", this.names.join(","));
    return FilterHeadersStatusValues.Continue;
  }
}

registerRootContext((id: u32) => new Root(id), "properties_as");
