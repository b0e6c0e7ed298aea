import { waitFor } from '@signalbox/testkit/wait';
import { describe, expect, test } from 'vitest';
import { AnswerStream, type AnswerStreamOptions, type StreamRecord } from './answer-stream.ts';

interface Sent {
  readonly record: StreamRecord;
  readonly at: number;
  acknowledge(): void;
  fail(error: unknown): void;
}

/** A stream over a broker that answers when the test says so. */
function stream(options: Partial<AnswerStreamOptions> = {}) {
  const sent: Sent[] = [];
  const failures: unknown[] = [];
  const answer = new AnswerStream({
    turnId: 't',
    attempt: 1,
    textBefore: 0,
    thinkingBefore: 0,
    opening: [],
    openingWaitMs: 5,
    coalesceMs: 12,
    send(record) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      sent.push({ record, at: performance.now(), acknowledge: resolve, fail: reject });
      return promise;
    },
    onFailure: (error) => failures.push(error),
    ...options,
  });
  const text = () => sent.map(({ record }) => record.value.text ?? record.eventType);
  return { answer, sent, failures, text };
}

async function until(sent: readonly unknown[], count: number): Promise<void> {
  await waitFor(
    () => sent.length,
    (length) => length >= count,
    { label: `${count} records`, intervalMs: 1 },
  );
}

describe('pieces', () => {
  test('the first goes at once, what comes while it is in flight goes as one record after it', async () => {
    const { answer, sent, text } = stream();
    answer.push('assistant.delta', 'a');
    expect(text()).toEqual(['a']);
    for (const piece of ['b', 'c', 'd']) answer.push('assistant.delta', piece);
    expect(text()).toEqual(['a']);
    sent[0]?.acknowledge();
    await until(sent, 2);
    expect(text()).toEqual(['a', 'bcd']);
    expect((sent[1]?.at ?? 0) - (sent[0]?.at ?? 0)).toBeGreaterThanOrEqual(11.5);
    expect(sent[1]?.record.value).toEqual({ turn_id: 't', attempt: 1, at: 1, text: 'bcd' });
  });

  test('the drain waits for no clock and resolves with the last acknowledgement', async () => {
    const { answer, sent, text } = stream({ coalesceMs: 60_000 });
    answer.push('assistant.delta', 'a');
    sent[0]?.acknowledge();
    await sent[0];
    answer.push('assistant.delta', 'b');
    let drained = false;
    const drain = answer.drain().then(() => {
      drained = true;
    });
    await until(sent, 2);
    expect(text()).toEqual(['a', 'b']);
    expect(drained).toBe(false);
    sent[1]?.acknowledge();
    await drain;
    expect(answer.text).toBe('ab');
  });

  test('a pair is never parted, and its half at the end of all becomes U+FFFD', async () => {
    const { answer, sent, text } = stream({ coalesceMs: 0 });
    const [high = '', low = ''] = ['\ud834', '\udd1e'];
    answer.push('assistant.delta', `x${high}`);
    answer.push('assistant.delta', `${low}y`);
    sent[0]?.acknowledge();
    await until(sent, 2);
    expect(text()).toEqual(['x', '𝄞y']);
    expect(sent[1]?.record.value.at).toBe(1);
    answer.push('assistant.delta', high);
    sent[1]?.acknowledge();
    const drain = answer.drain();
    await until(sent, 3);
    expect(sent[2]?.record.value).toMatchObject({ text: '\ufffd', at: 3 });
    sent[2]?.acknowledge();
    await drain;
    expect(answer.text).toBe('x𝄞y\ufffd');
  });

  test('NUL does not get through', () => {
    const { answer, text } = stream();
    answer.push('assistant.delta', 'a\u0000b');
    expect(text()).toEqual(['a\ufffdb']);
  });

  test('thinking keeps its place and its own count', async () => {
    const { answer, sent } = stream({ coalesceMs: 0, thinkingBefore: 7 });
    answer.push('assistant.thinking', 'hm');
    answer.push('assistant.delta', 'a');
    answer.push('assistant.thinking', 'so');
    for (const at of [0, 1, 2]) {
      await until(sent, at + 1);
      sent[at]?.acknowledge();
    }
    expect(sent.map(({ record }) => [record.eventType, record.value.at])).toEqual([
      ['assistant.thinking', 7],
      ['assistant.delta', 0],
      ['assistant.thinking', 9],
    ]);
    expect(answer.text).toBe('a');
    expect(answer.thinkingLength).toBe(11);
  });

  test('what gathered behind a slow broker is cut to records that fit, at code points', async () => {
    const { answer, sent } = stream({ coalesceMs: 0 });
    answer.push('assistant.delta', 'a');
    answer.push('assistant.delta', `b${'𝄞'.repeat(40_000)}`);
    const drain = answer.drain();
    for (const at of [0, 1, 2]) {
      await until(sent, at + 1);
      sent[at]?.acknowledge();
    }
    await drain;
    expect(sent).toHaveLength(3);
    for (const { record } of sent) expect(String(record.value.text).isWellFormed()).toBe(true);
    expect(sent[2]?.record.value.at).toBe([...(String(sent[1]?.record.value.text) ?? '')].length + 1);
  });
});

describe('the opening', () => {
  const opening: StreamRecord[] = [{ eventType: 'turn.started', value: {} }];

  test('goes in one tick with the first piece', () => {
    const { answer, text } = stream({ opening });
    expect(text()).toEqual([]);
    answer.push('assistant.delta', 'a');
    expect(text()).toEqual(['turn.started', 'a']);
  });

  test('goes alone when no piece comes in time', async () => {
    const { sent, text } = stream({ opening });
    await until(sent, 1);
    expect(text()).toEqual(['turn.started']);
  });

  test('goes with the drain when there was no text', async () => {
    const { answer, sent, text } = stream({ opening, openingWaitMs: 60_000 });
    const drain = answer.drain();
    expect(text()).toEqual(['turn.started']);
    sent[0]?.acknowledge();
    await drain;
  });
});

describe('failure and end', () => {
  test('a record that cannot be sent ends the stream and is told once', async () => {
    const { answer, sent, failures, text } = stream();
    answer.push('assistant.delta', 'a');
    answer.push('assistant.delta', 'b');
    const drain = answer.drain();
    const broken = new Error('refused');
    sent[0]?.fail(broken);
    await expect(drain).rejects.toBe(broken);
    expect(failures).toEqual([broken]);
    answer.push('assistant.delta', 'c');
    await expect(answer.drain()).rejects.toBe(broken);
    expect(text()).toEqual(['a']);
  });

  test('close drops what is left, waits for what is in flight, and nothing comes after it', async () => {
    const { answer, sent, text } = stream();
    answer.push('assistant.delta', 'a');
    answer.push('assistant.delta', 'b');
    let closed = false;
    const close = answer.close().then(() => {
      closed = true;
    });
    await Promise.resolve();
    expect(closed).toBe(false);
    sent[0]?.acknowledge();
    await close;
    answer.push('assistant.delta', 'c');
    expect(text()).toEqual(['a']);
  });
});
