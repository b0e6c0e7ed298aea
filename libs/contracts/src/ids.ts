import { randomFillSync } from 'node:crypto';

const idForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const pool = Buffer.alloc(8 * 512);
let used = pool.length;
let lastMs = 0;
let counter = 0;

/**
 * A new UUIDv7 (RFC 9562, 6.2 method 1): 48 bits of milliseconds, a 12 bit counter, 62 random bits. Ids of one process
 * sort in the order they were made, also within one millisecond and when the clock steps back: the time part then stays
 * where it was, and moves on by one when the counter is full.
 */
export function newId(): string {
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  const random = pool.subarray(used, used + 8);
  used += 8;
  const now = Date.now();
  if (now > lastMs) {
    lastMs = now;
    counter = random.readUInt16BE(0) & 0x07ff; // the top bit starts at 0, so that at least 2 048 ids follow
  } else if (++counter > 0x0fff) {
    lastMs += 1;
    counter = random.readUInt16BE(0) & 0x07ff;
  }
  random[0] = ((random[0] ?? 0) & 0x3f) | 0x80; // variant 10
  const time = lastMs.toString(16).padStart(12, '0');
  const tail = random.toString('hex');
  const sequence = counter.toString(16).padStart(3, '0');
  return `${time.slice(0, 8)}-${time.slice(8)}-7${sequence}-${tail.slice(0, 4)}-${tail.slice(4)}`;
}

/** Whether the text is a UUID in its canonical lower-case form (any version: a replayed or imported id may be older). */
export function isId(text: unknown): text is string {
  return typeof text === 'string' && idForm.test(text);
}
