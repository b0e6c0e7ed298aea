import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);

/** The member of kafkajs' internal Decoder that the override takes the place of; only the headers of a record use it. */
interface Decoder {
  readVarInt(): number;
  readVarIntArray(reader: (decoder: Decoder) => Header): { reduce(): Headers };
}

interface Header {
  readonly key: string;
  readonly value: Buffer | null;
}

type Value = Buffer | null;
type Headers = Record<string, Value | Value[]>;

let patched = false;

/**
 * kafkajs copies all headers that it has for each one that it reads: a record with 10 000 of them, which the broker
 * takes, blocks the event loop for 15 s, and one of 1 MB for half an hour, in one consumer after the other. It also takes
 * what every object inherits for an earlier header of the same name (`constructor`, `__proto__`). Here they are
 * gathered in one pass, of a name that comes twice all values in their order. Idempotent.
 */
export function patchHeaderDecoding(): void {
  if (patched) return;
  patched = true;
  const decoder: { prototype: Decoder } = require('kafkajs/src/protocol/decoder');
  decoder.prototype.readVarIntArray = function gather(this: Decoder, reader) {
    const headers: Headers = Object.create(null);
    const count = this.readVarInt();
    for (let at = 0; at < count; at += 1) {
      const { key, value } = reader(this);
      const before = headers[key];
      if (before === undefined) headers[key] = value;
      else if (Array.isArray(before)) before.push(value);
      else headers[key] = [before, value];
    }
    return { reduce: () => headers }; // its one caller reduces a list to this
  };
}
