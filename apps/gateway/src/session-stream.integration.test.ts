import { type StreamPosition, streamStart } from '@signalbox/api/stream-id';
import { newId } from '@signalbox/contracts/ids';
import { openRedis, type Redis } from '@signalbox/redis/redis';
import type { Subscription } from '@signalbox/redis/subscriber';
import { silentLog as log, silentMetrics as metrics } from '@signalbox/telemetry/silent';
import { testInfra } from '@signalbox/testkit/infra';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createSessionStreams, type SessionStreams } from './session-stream.ts';
import type { EventKind, StreamEvent } from './stream-event.ts';
import { streamKeys } from './stream-keys.ts';

const prefix = `test-${newId()}:`;
let redis: Redis;
let streams: SessionStreams;
let sessionId: string;
const turnId = newId();

beforeAll(async () => {
  redis = openRedis({ url: testInfra().redisUrl, log, metrics });
  streams = createSessionStreams({ redis, keys: streamKeys(prefix), ttlSeconds: 60, maxEntries: 1000 });
  await waitFor(
    () => streams.markBoot(0, '', 'ready').catch(() => undefined),
    (marked) => marked !== undefined,
    { timeoutMs: 5000, label: 'redis' },
  );
});
beforeEach(() => {
  sessionId = newId();
});
afterAll(async () => {
  const keys = await redis.run((client) => client.keys(`${prefix}*`));
  if (keys.length > 0) await redis.run((client) => client.del(...keys));
  await redis.close();
});

interface Given {
  kind?: EventKind;
  attempt?: number;
  turn?: string;
  at?: number;
  text?: string;
  epoch?: number;
}

function event(position: number, given: Given = {}): StreamEvent {
  const { kind = 'd', attempt = 1, turn = turnId, at = 0, text = '', epoch = 1 } = given;
  const piece = kind === 'd' || kind === 't';
  const rest = JSON.stringify({ turn_id: turn, attempt });
  return {
    tenant: 'acme',
    sessionId,
    at: { epoch, position: BigInt(position) },
    eventId: newId(),
    turnId: turn,
    attempt,
    type: piece ? 'assistant.delta' : `event.${kind}`,
    kind,
    offset: at,
    points: [...text].length,
    body: piece ? `${rest}\n${text}` : rest,
  };
}

async function shown(): Promise<{ ids: string[]; text: string; at: unknown[] }> {
  const { entries } = await streams.look({ tenant: 'acme', sessionId }, streamStart, 500);
  const pieces = entries.filter(({ type }) => type === 'assistant.delta').map(({ data }) => JSON.parse(data));
  return {
    ids: entries.map(({ id }) => id),
    text: pieces.map((piece) => piece.text).join(''),
    at: pieces.map((piece) => piece.at),
  };
}

const on = (boot: string, reached?: StreamPosition) => ({ boot, reached });
const append = (...events: StreamEvent[]) => streams.append(0, on('ready'), events, undefined);

describe('appending', () => {
  it('chains entries by prev and ignores redelivered ids', async () => {
    await append(event(3, { kind: 's' }), event(5, { text: 'Hel' }), event(9, { at: 3, text: 'lo' }));
    await append(event(5, { text: 'Hel' }), event(9, { at: 3, text: 'lo' }), event(12, { at: 5, text: '!' }));
    expect(await shown()).toEqual({ ids: ['1-3', '1-5', '1-9', '1-12'], text: 'Hello!', at: [0, 3, 5] });
    const look = await streams.look({ tenant: 'acme', sessionId }, { epoch: 1, position: 5n }, 10);
    expect(look.prev).toBe('1-5');
    expect(look.last).toEqual({ epoch: 1, position: 12n });
    expect((await streams.look({ tenant: 'acme', sessionId }, streamStart, 10)).prev).toBeUndefined();
  });

  it('shows no text of a holder that lost its lease, and lets no event of it that was kept change the turn', async () => {
    await append(event(1, { kind: 's' }), event(2, { text: 'from A ' }));
    await append(event(3, { kind: 'r', attempt: 2 }), event(4, { attempt: 2, text: 'from B ' }));
    // A wakes: its records lie behind B's in the log.
    await append(
      event(5, { at: 7, text: 'more of A' }),
      event(6, { kind: 's' }), // Postgres did not know better
      event(7, { attempt: 2, at: 7, text: 'B again' }),
      event(8, { at: 0, text: 'A again' }),
    );
    const { ids } = await shown();
    expect(ids).toEqual(['1-1', '1-2', '1-3', '1-4', '1-6', '1-7']);
  });

  it('lets the text of a takeover begin where turn.resumed says', async () => {
    await append(event(1, { kind: 's' }), event(2, { text: 'abcdef' }));
    await append(event(3, { kind: 'r', attempt: 2, at: 4 }), event(4, { attempt: 2, at: 4, text: 'XY' }));
    expect((await shown()).at).toEqual([0, 4]);
  });

  it('cuts what a producer sent twice, by code points', async () => {
    await append(event(1, { kind: 's' }), event(2, { text: 'añ😀' }));
    await append(event(3, { text: 'añ😀' })); // the same record once more, under another offset
    await append(event(4, { at: 1, text: 'ñ😀漢b' })); // overlaps two code points
    await append(event(5, { at: 5, text: 'c\n"\u0000' }));
    expect(await shown()).toEqual({
      ids: ['1-1', '1-2', '1-4', '1-5'],
      text: 'añ😀漢bc\n"\u0000',
      at: [0, 3, 5],
    });
  });

  it('counts thinking and answer apart', async () => {
    const thinking = { ...event(2, { kind: 't', text: 'hmm, let me see' }), type: 'assistant.thinking' };
    await append(event(1, { kind: 's' }), thinking, event(3, { text: 'four' }));
    expect((await shown()).text).toBe('four');
  });

  it('drops text of an ended turn and keeps its events, of which Postgres has decided', async () => {
    const next = newId();
    await append(event(1, { kind: 's' }), event(2, { text: 'done' }), event(3, { kind: 'x' }));
    await append(
      event(4, { kind: 's', turn: next }),
      event(5, { at: 4, text: ' not' }),
      event(6, { kind: 'e' }),
    );
    await append(event(7, { turn: next, text: 'next' }));
    expect(await shown()).toEqual({
      ids: ['1-1', '1-2', '1-3', '1-4', '1-6', '1-7'],
      text: 'donenext',
      at: [0, 0],
    });
  });

  it('does not let a queued turn end the one that runs', async () => {
    await append(event(1, { kind: 's' }), event(2, { text: 'ab' }), event(3, { kind: 'q', turn: newId() }));
    await append(event(4, { at: 0, text: 'ab' }), event(5, { at: 2, text: 'cd' }));
    expect((await shown()).text).toBe('abcd');
  });

  it.each([
    ['cancelled while it waited', 'c'],
    ['rejected', 'q'],
    ['of which something is told', 'e'],
    ['that failed before it began', 'x'],
  ] as const)('loses nothing of the turn that runs by another one %s', async (_, kind) => {
    const others = [newId(), newId(), newId()];
    await append(event(1, { kind: 's', attempt: 2 }), event(2, { attempt: 2, text: 'ab' }));
    await append(event(3, { kind, turn: others[0] ?? '' }), event(4, { attempt: 2, at: 2, text: 'cd' }));
    await append(
      event(5, { kind, turn: others[1] ?? '' }),
      event(6, { attempt: 2, at: 2, text: 'cd' }), // sent twice: the length shown still stands
      event(7, { kind, turn: others[2] ?? '', attempt: 3 }),
      event(8, { attempt: 1, at: 4, text: 'a holder that lost its lease' }),
      event(9, { attempt: 2, at: 4, text: 'ef' }),
      event(10, { kind: 'x', attempt: 2 }),
      event(11, { attempt: 2, at: 6, text: 'late' }),
    );
    expect(await shown()).toEqual({
      ids: ['1-1', '1-2', '1-3', '1-4', '1-5', '1-7', '1-9', '1-10'],
      text: 'abcdef',
      at: [0, 2, 4],
    });
  });

  it('ends a turn that is cancelled, and shows nothing of it afterwards', async () => {
    const next = newId();
    await append(event(1, { kind: 's' }), event(2, { text: 'half' }), event(3, { kind: 'c' }));
    await append(event(4, { at: 4, text: ' an answer' }), event(5, { kind: 'e' }));
    await append(event(6, { kind: 's', turn: next }), event(7, { turn: next, text: '!' }));
    await append(event(8, { at: 4, text: ' an answer' }), event(9, { turn: next, at: 1, text: '!' }));
    expect(await shown()).toEqual({
      ids: ['1-1', '1-2', '1-3', '1-5', '1-6', '1-7', '1-9'],
      text: 'half!!',
      at: [0, 0, 1],
    });
  });

  it('shows no late text of an ended turn, however many were cancelled while they waited', async () => {
    await append(event(1, { kind: 's' }), event(2, { text: 'whole' }), event(3, { kind: 'x' }));
    for (let i = 0; i < 40; i += 1) await append(event(10 + i, { kind: i % 2 ? 'c' : 'q', turn: newId() }));
    await append(event(60, { at: 5, text: ' and more' }));
    expect((await shown()).text).toBe('whole');
  });

  it('shows no late text of a cancelled turn whose state had expired when it was cancelled', async () => {
    await append(event(1, { kind: 's' }), event(2, { text: 'half' }));
    await redis.run((client) => client.del(streamKeys(prefix).state('acme', sessionId)));
    await append(event(3, { kind: 'c' }), event(4, { at: 4, text: ' an answer' }));
    expect((await shown()).text).toBe('half');
  });

  it('takes up in the middle of a turn whose beginning it never saw', async () => {
    await append(event(10, { at: 40, text: 'tail' }), event(11, { at: 44, text: '.' }));
    expect(await shown()).toMatchObject({ text: 'tail.', at: [40, 44] });
  });

  it('orders a raised epoch behind every offset of the one before', async () => {
    await append(event(900, { kind: 's' }));
    await append(event(0, { kind: 'x', epoch: 2 }), event(901, { kind: 'e' }));
    expect((await shown()).ids).toEqual(['1-900', '2-0']);
  });

  it('goes on behind the entries when only its state was evicted', async () => {
    await append(event(5, { kind: 's' }), event(6, { text: 'x' }));
    await redis.run((client) => client.del(streamKeys(prefix).state('acme', sessionId)));
    await append(event(6, { text: 'x' }), event(7, { at: 1, text: 'y' }));
    expect((await shown()).ids).toEqual(['1-5', '1-6', '1-7']);
    expect((await streams.look({ tenant: 'acme', sessionId }, { epoch: 1, position: 6n }, 10)).prev).toBe(
      '1-6',
    );
  });

  it('bounds length and life of a stream', async () => {
    const small = createSessionStreams({ redis, keys: streamKeys(prefix), ttlSeconds: 60, maxEntries: 100 });
    for (let batch = 0; batch < 4; batch += 1) {
      const events = Array.from({ length: 100 }, (_, i) => event(batch * 100 + i, { kind: 'e' }));
      await small.append(0, on('ready'), events, undefined);
    }
    const { ids } = await shown();
    expect(ids.length).toBeLessThan(250);
    expect(ids.at(-1)).toBe('1-399');
    const ttl = await redis.run((client) => client.ttl(streamKeys(prefix).entries('acme', sessionId)));
    expect(ttl).toBeGreaterThan(50);
  });

  it('appends nothing when Redis was emptied, whatever the owner believes', async () => {
    expect(await streams.append(3, on('ready'), [event(1)], undefined)).toBe(false);
    expect(await streams.markBoot(3, '', 'token-1')).toBe(true);
    expect(await streams.append(3, on('ready'), [event(1)], undefined)).toBe(false);
    expect(await streams.append(3, on('token-1'), [event(1, { text: 'x' })], undefined)).toBe(true);
    expect(await streams.markBoot(3, 'token-0', 'ready')).toBe(false);
    expect(await streams.markBoot(3, 'token-1', 'ready')).toBe(true);
    expect(await streams.standingOf(3)).toEqual({ boot: 'ready', reached: undefined });
  });

  it('appends a batch of several sessions in one call and keeps how far it went', async () => {
    const other = newId();
    const batch = [event(1, { kind: 's' }), { ...event(2, { kind: 's' }), sessionId: other }, event(3)];
    await streams.append(0, on('ready'), batch, { epoch: 1, position: 4n });
    const first = await streams.look({ tenant: 'acme', sessionId }, streamStart, 10);
    const second = await streams.look({ tenant: 'acme', sessionId: other }, streamStart, 10);
    expect(first.entries.map(({ id }) => id)).toEqual(['1-1', '1-3']);
    expect(second.entries.map(({ id }) => id)).toEqual(['1-2']);
    const reached = await redis.run((client) => client.hget(streamKeys(prefix).reached, '0'));
    expect(reached).toBe('1-4');
    expect(await streams.append(0, on('ready'), [], { epoch: 1, position: 6n })).toBe(true);
    expect(await redis.run((client) => client.hget(streamKeys(prefix).reached, '0'))).toBe('1-6');
    expect(await streams.append(0, on('token-of-another'), [], { epoch: 1, position: 9n })).toBe(false);
    expect(await redis.run((client) => client.hget(streamKeys(prefix).reached, '0'))).toBe('1-6');
  });

  it('never goes back in how far the partition is whole', async () => {
    const reached = () => redis.run((client) => client.hget(streamKeys(prefix).reached, '4'));
    const at = (position: bigint, epoch = 1) => ({ epoch, position });
    await streams.markBoot(4, '', 'token', at(7n));
    expect(await reached()).toBe('1-7');
    await streams.append(4, on('token'), [], at(30n));
    await streams.append(4, on('token'), [event(20, { kind: 's' })], at(20n)); // a former owner wakes
    expect(await reached()).toBe('1-30');
    await streams.markBoot(4, 'token', 'ready', at(9n));
    expect(await reached()).toBe('1-30');
    await streams.append(4, on('ready'), [], at(2n, 2)); // the log was made anew
    await streams.append(4, on('ready'), [], undefined);
    expect(await reached()).toBe('2-2');
  });

  it('appends nothing to data that is older than what was appended, and begins a rebuild from nothing', async () => {
    const at = (position: bigint) => ({ epoch: 1, position });
    const keys = streamKeys(prefix);
    await streams.markBoot(5, '', 'ready');
    await streams.append(5, on('ready'), [event(20, { kind: 's' }), event(30, { text: 'old' })], at(30n));
    const all = [keys.entries('acme', sessionId), keys.state('acme', sessionId), keys.reached];
    const snapshot = await redis.run((client) => Promise.all(all.map((key) => client.dumpBuffer(key))));
    const lost = [event(31, { at: 3, text: ' and' }), event(32, { kind: 'x' })];
    expect(await streams.append(5, on('ready', at(30n)), lost, at(32n))).toBe(true);
    await redis.run((client) =>
      Promise.all(all.map((key, i) => client.restore(key, 0, snapshot[i] ?? '', 'REPLACE'))),
    );
    const next = event(34, { kind: 's', turn: newId() });
    expect(await streams.append(5, on('ready', at(32n)), [next], at(34n))).toBe(false);
    expect((await shown()).ids).toEqual(['1-20', '1-30']);
    expect(await streams.standingOf(5)).toEqual({ boot: 'ready', reached: at(30n) });

    await streams.markBoot(5, 'ready', 'token', 'anew');
    expect(await streams.standingOf(5)).toEqual({ boot: 'token', reached: undefined });
    await streams.append(5, on('token'), [event(30, { text: 'old' }), ...lost, next], at(34n));
    expect((await shown()).ids).toEqual(['1-20', '1-30', '1-31', '1-32', '1-34']);
    expect((await shown()).text).toBe('old and');
  });

  describe('wake-ups', () => {
    let heard: string[];
    let subscription: Subscription;
    beforeEach(async () => {
      heard = [];
      subscription = await redis.subscriber().subscribe(streams.channelOf({ tenant: 'acme', sessionId }), {
        onMessage: (message) => heard.push(message),
      });
    });
    afterEach(() => subscription.end());
    const hear = (count: number) =>
      waitFor(
        () => heard,
        (messages) => messages.length === count,
        { timeoutMs: 2000, label: `${count} wake-ups` },
      );

    it('go out for a batch that was there before, and carry nothing then', async () => {
      await append(event(1, { kind: 's' }));
      await append(event(2, { text: 'a' }));
      await append(event(2, { text: 'a' }));
      await append(event(1, { kind: 's' }));
      const [first, second, third, fourth] = await hear(4);
      expect(first).toBe('1-1'); // what was before it is not known
      expect(streams.readWake(second ?? '')?.prev).toBe('1-1');
      expect([third, fourth]).toEqual(['1-2', '1-2']);
      expect(streams.readWake('1-2')).toBeUndefined();
    });

    it('carry exactly what a read would give', async () => {
      await append(event(1, { kind: 's' }));
      await append(
        event(2, { text: 'a/ñ"\\\n' }),
        event(3, { text: 'ñ"\\\n😀\u0000\u007f', at: 2 }), // its first four code points were sent twice
        event(4, { kind: 'e' }),
      );
      const [, message] = await hear(2);
      const look = await streams.look({ tenant: 'acme', sessionId }, { epoch: 1, position: 1n }, 10);
      expect(streams.readWake(message ?? '')).toEqual({ prev: '1-1', entries: look.entries });
      expect(look.entries).toHaveLength(3);
    });

    it('carry nothing large, and nothing while the partition is appended again', async () => {
      await append(event(1, { kind: 's' }));
      await append(event(2, { text: 'x'.repeat(9_000) }));
      await streams.markBoot(0, 'ready', 'token');
      try {
        await streams.append(0, on('token'), [event(3, { kind: 'e' })], undefined);
      } finally {
        await streams.markBoot(0, 'token', 'ready');
      }
      expect(await hear(3)).toEqual(['1-1', '1-2', '1-3']);
    });
  });
});
