// Replaces a word in the bodies of requests and responses: its configuration is `OLD=NEW`. A body is held until it is
// whole, and set as a whole.
export * from "@gcoredev/proxy-wasm-sdk-as/assembly/proxy";
import {
  BufferTypeValues,
  Context,
  FilterDataStatusValues,
  get_buffer_bytes,
  registerRootContext,
  RootContext,
  set_buffer_bytes,
} from "@gcoredev/proxy-wasm-sdk-as/assembly";

class Root extends RootContext {
  oldWord: string = "";
  newWord: string = "";

  onConfigure(size: u32): bool {
    super.onConfigure(size);
    const words = this.getConfiguration().split("=");
    if (words.length != 2 || words[0].length == 0) return false;
    this.oldWord = words[0];
    this.newWord = words[1];
    return true;
  }

  createContext(id: u32): Context {
    return new Bodies(id, this);
  }
}

class Bodies extends Context {
  root: Root;

  constructor(id: u32, root: Root) {
    super(id, root);
    this.root = root;
  }

  replace(buffer: BufferTypeValues, size: usize, endOfStream: bool): FilterDataStatusValues {
    if (!endOfStream) return FilterDataStatusValues.StopIterationAndBuffer;
    const body = String.UTF8.decode(get_buffer_bytes(buffer, 0, <u32>size));
    if (body.includes(this.root.oldWord)) {
      const text = body.replaceAll(this.root.oldWord, this.root.newWord);
      set_buffer_bytes(buffer, 0, <u32>size, String.UTF8.encode(text));
    }
    return FilterDataStatusValues.Continue;
  }

  onRequestBody(size: usize, endOfStream: bool): FilterDataStatusValues {
    return this.replace(BufferTypeValues.HttpRequestBody, size, endOfStream);
  }

  onResponseBody(size: usize, endOfStream: bool): FilterDataStatusValues {
    return this.replace(BufferTypeValues.HttpResponseBody, size, endOfStream);
  }
}

registerRootContext((id: u32) => new Root(id), "bodies_as");
