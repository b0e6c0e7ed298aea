import { describe, expect, it } from 'vitest';
import type { Sending } from './producer.ts';
import { type Queued, SendQueue } from './send-queue.ts';

function sending(key: string, bytes: number): Sending {
  return {
    topic: 'conversation.outbound',
    key,
    bytes,
    withdrawn: false,
    record: () => ({ topic: 'conversation.outbound', key, headers: {}, value: null }),
    sent: () => undefined,
    refused: () => undefined,
  };
}

const keys = (batch: readonly Queued[]) => batch.map(({ sending }) => sending.key);

describe('SendQueue', () => {
  it('takes at most 256 records', () => {
    const queue = new SendQueue();
    for (let n = 0; n < 600; n += 1) queue.push(sending(String(n), 10), n % 6);
    expect([queue.take().length, queue.take().length, queue.take().length, queue.take().length]).toEqual([
      256, 256, 88, 0,
    ]);
  });

  it('passes a partition over when it has its 512 kB, with all its later records, and takes the others', () => {
    const queue = new SendQueue();
    for (const key of ['a1', 'a2', 'b1', 'a3', 'b2'])
      queue.push(sending(key, key.startsWith('a') ? 300_000 : 10), key.startsWith('a') ? 0 : 1);
    queue.push(sending('a4', 1), 0); // small enough, but behind a2 and a3
    expect(keys(queue.take())).toEqual(['a1', 'b1', 'b2']);
    expect(keys(queue.take())).toEqual(['a2']);
    expect(keys(queue.take())).toEqual(['a3', 'a4']);
  });

  it('takes at most 4 MB, and a record over a bound alone in its partition', () => {
    const queue = new SendQueue();
    for (let n = 0; n < 12; n += 1) queue.push(sending(String(n), 500_000), n);
    expect(queue.take().length).toBe(8);
    queue.push(sending('large', 900_000), 20);
    expect(keys(queue.take())).toContain('large');
  });

  it('forgets what was withdrawn', () => {
    const queue = new SendQueue();
    const gone = sending('gone', 1);
    queue.push(gone, 0);
    queue.push(sending('stays', 1), 0);
    gone.withdrawn = true;
    expect(keys(queue.take())).toEqual(['stays']);
    expect(queue.length).toBe(0);
  });
});
