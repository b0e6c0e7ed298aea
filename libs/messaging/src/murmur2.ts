/**
 * Java's `org.apache.kafka.common.utils.Utils.murmur2`, so that every client of every language puts a key into the same
 * partition. 32 bit integer arithmetic; kafkajs' own copy goes through 64 bit Longs and costs ten times as much.
 */
export function murmur2(data: Uint8Array): number {
  const m = 0x5bd1e995;
  const length = data.length;
  let h = 0x9747b28c ^ length;
  const blocks = length >> 2;
  for (let i = 0; i < blocks; i += 1) {
    const at = i << 2;
    let k =
      byte(data, at) | (byte(data, at + 1) << 8) | (byte(data, at + 2) << 16) | (byte(data, at + 3) << 24);
    k = Math.imul(k, m);
    k ^= k >>> 24;
    k = Math.imul(k, m);
    h = Math.imul(h, m) ^ k;
  }
  const rest = blocks << 2;
  if ((length & 3) === 3) h ^= byte(data, rest + 2) << 16;
  if ((length & 3) >= 2) h ^= byte(data, rest + 1) << 8;
  if ((length & 3) >= 1) h = Math.imul(h ^ byte(data, rest), m);
  h ^= h >>> 13;
  h = Math.imul(h, m);
  h ^= h >>> 15;
  return h | 0;
}

function byte(data: Uint8Array, at: number): number {
  return data[at] ?? 0;
}

/** The partition of a key, as Java's default partitioner chooses it. */
export function partitionOf(key: string, partitions: number): number {
  return (murmur2(Buffer.from(key, 'utf8')) & 0x7fffffff) % partitions;
}
